"""What calibration tells of all layers of a float model, kept: for peers, the ablation and activations by themselves.

The pieces of `tilepress quant` in its order, but for bounded memory: one pass forward and one backward serve all rows.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tilepress.checkpoint import FloatCheckpoint
from tilepress.machine.memory import machine_of
from tilepress.quantize import Recipe
from tilepress.quantize.calibration.size import calibration_size
from tilepress.quantize.context import SAMPLED_ROWS
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.layerwise.hidden_states import sequences_a_batch
from tilepress.quantize.rounding.layer import FusedWeight, fused_weights
from tilepress.quantize.statistics.input_statistics import InputStatistics, StatisticsCollector
from tilepress.quantize.statistics.sensitivity import gradient_of_sampled_loss, layer_sensitivity
from tilepress.quantize.transforms.folding import FoldedLayer, fold, mix_scales

CPU = torch.device("cpu")
DTYPE = torch.float16


@dataclass(frozen=True)
class Layer:
    """index; the layer's tensors after the folds; its linears by the input they read."""

    index: int
    folded: FoldedLayer
    groups: list[FusedWeight]

    def name(self, part: str) -> str:
        """The checkpoint's name of a part of the layer."""
        return f"model.layers.{self.index}.{part}"

    def tensors(self) -> dict[str, Tensor]:
        """The folded tensors by the checkpoint's names, float32."""
        return {self.name(part): tensor for part, tensor in self.folded.tensors.items()}


class Observed:
    """Statistics of a float model's linear inputs and sensitivities of their outputs, each gathered at first use.

    tokens: int64 [samples, length].
    """

    def __init__(self, source: FloatCheckpoint, tokens: Tensor) -> None:
        self.decoder = LayerwiseDecoder(source, CPU)
        self._source, self._tokens = source, tokens
        self._heads = {"heads": int(source.shape.heads), "kv_heads": int(source.shape.kv_heads)}
        self._damping = Recipe().damping

    @cached_property
    @torch.no_grad()
    def statistics(self) -> list[dict[str, InputStatistics]]:
        """Of each layer, by the names of FEEDS."""
        hidden = self.decoder.embed(self._tokens)
        arguments = self.decoder.layer_arguments(hidden.shape[1])
        sequences = sequences_a_batch(*hidden.shape[:2])
        rows_a_pass = -(-SAMPLED_ROWS * sequences // len(hidden))
        generator = torch.Generator().manual_seed(0)
        found = []
        for index in range(self.decoder.layers):
            with self.decoder.layer(index) as layer:
                with StatisticsCollector(layer, rows_a_pass, generator) as collector:
                    for part in hidden.split(sequences):
                        part.copy_(layer(part, **arguments[index]))
                found.append(collector.result())
        return found

    @cached_property
    @torch.no_grad()
    def fisher(self) -> list[dict[str, Tensor]]:
        """`LayerSensitivity.fisher` of each layer, from as many tokens as `tilepress quant` takes for it."""
        samples, length = self._tokens.shape
        context = int(self._source.config["max_position_embeddings"])
        recipe = Recipe(samples=samples, sequence_length=length)
        size = calibration_size(recipe, self._source.shape, context, machine_of(CPU))
        hidden = self.decoder.embed(self._tokens[: size.sensitivity_samples, : size.sensitivity_length])
        arguments = self.decoder.layer_arguments(hidden.shape[1])
        inputs = []
        for index in range(self.decoder.layers):
            inputs.append(hidden)
            with self.decoder.layer(index) as layer:
                hidden = torch.cat([layer(part, **arguments[index]) for part in hidden.split(1)])
        generator = torch.Generator().manual_seed(0)
        gradient = gradient_of_sampled_loss(self.decoder, hidden.split(1), hidden.shape[1], generator)
        found = []
        for index in reversed(range(self.decoder.layers)):
            of_layer = (inputs[index].split(1), arguments[index], gradient, generator)
            with layer_sensitivity(self.decoder, index, *of_layer) as seen:
                found.append(seen.fisher)
        return found[::-1]

    @torch.no_grad()
    def layers(self, activations: str | None) -> list[Layer]:
        """All layers. activations: the columns of the inputs are scaled for this mode; None: not scaled."""
        return [self._layer(index, activations) for index in range(self.decoder.layers)]

    def _layer(self, index: int, activations: str | None) -> Layer:
        # Folding and grouping use up what they are given, to save memory; here it is needed again.
        statistics, where = deepcopy(self.statistics[index]), f"model.layers.{index}"
        if activations is not None:
            scales = mix_scales(statistics, self._damping, where, **self._heads, activations=activations)
        else:
            scales = {name: torch.ones_like(seen.mean) for name, seen in statistics.items()}
        with self.decoder.layer(index) as layer:
            folded = fold(layer.state_dict(), statistics, scales, DTYPE, **self._heads)
        used_up = replace(folded, tensors=dict(folded.tensors), statistics=dict(folded.statistics))
        return Layer(index, folded, list(fused_weights(used_up, self.fisher[index], self._damping, where)))
