"""State and steps that the two passes over a model share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tilepress.distributed.communicator import Communicator
from tilepress.models.layer_inputs import FEEDS, Feed
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder, TensorSource
from tilepress.quantize.layerwise.hidden_states import HiddenStates, write_states
from tilepress.quantize.progress import Clock
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.resume import WorkDirectory
from tilepress.quantize.rounding.head import Head, fold_head, head_statistics
from tilepress.quantize.statistics.input_statistics import InputStatistics
from tilepress.quantize.transforms.folding import FoldedLayer, fold, mix_scales

SAMPLED_ROWS = 2048


@dataclass(frozen=True)
class Job:
    """tokens: int64 [samples, length]. sensitivity_tokens: the part of `tokens` that the first pass reads.

    states_memory: bytes of hidden states that may stay in memory between two layers. generator: draws everything that
    is random, in the order of the stages, alike on all ranks.

    Each rank has its own work directory with its share of the hidden states. All ranks have the statistics of all
    sequences; only the first one has the results.
    """

    source: TensorSource
    recipe: Recipe
    tokens: Tensor
    sensitivity_tokens: Tensor
    decoder: LayerwiseDecoder
    generator: torch.Generator
    work: WorkDirectory
    clock: Clock
    states_memory: int
    ranks: Communicator

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which floats are stored."""
        return getattr(torch, self.recipe.dtype)  # type: ignore[no-any-return]

    @property
    def shared(self) -> bool:
        """Whether head and embedding share one table of integers, as in a tied model."""
        return self.source.shape.tied and self.recipe.embeddings

    @property
    def own_embedding(self) -> bool:
        """Whether the embedding is quantized to integers of its own."""
        return self.recipe.has_own_embedding(self.source.shape)

    @property
    def exact(self) -> bool:
        """Whether the result has to meet the target: bits or a size are met exactly, a loss only as predicted."""
        return self.recipe.loss is None

    def rounded_feeds(self, where: str) -> list[Feed]:
        """Return the inputs of the linears of layer `where` that are quantized."""
        return [feed for feed in FEEDS if not self.recipe.keeps_float(f"{where}.{feed.consumers[0]}")]

    def done(self, stage: str, visits: int = 1) -> dict[str, Any] | None:
        """Return the record of a finished stage and restore the generator; None where the stage has still to be done.

        A rank that ended earlier than others may have fewer stages: all ranks redo a stage that one of them lacks.
        """
        record = self.work.record(stage)
        if not self.ranks.all(record is not None):
            return None
        if record is not None:
            self.generator.set_state(torch.frombuffer(bytearray.fromhex(record["generator"]), dtype=torch.uint8))
            self.clock.restored(visits, record["seconds"])
        return record

    def finish(self, stage: str, record: dict[str, Any] | None = None, visits: int = 1) -> None:
        """Mark the stage as done; from now on `done` returns `record`."""
        state = bytes(self.generator.get_state().numpy()).hex()
        self.work.commit(stage, {**(record or {}), "seconds": self.clock.seconds(), "generator": state})
        self.ranks.all(True)  # wait before any rank drops the inputs of the stage
        for _ in range(visits):
            self.clock.tick()

    def embedded(self, name: str, tokens: Tensor, held: Tensor | None) -> HiddenStates:
        """Write the first layer's inputs for tokens int64 [samples, length] to the file `name` (and to `held`)."""
        parts = (self.decoder.embed(sequence) for sequence in tokens[:, None])
        return write_states(self.work, name, (*tokens.shape, self.decoder.hidden), parts, held)

    def fold(self, layer: nn.Module, statistics: dict[str, InputStatistics], where: str) -> FoldedLayer:
        """Fold column scales into the layer; its tensors are changed in place."""
        heads = {"heads": self.source.shape.heads, "kv_heads": self.source.shape.kv_heads}
        mixed = mix_scales(
            statistics,
            self.recipe.damping,
            where,
            **heads,
            activations=self.recipe.activations,
            feeds=self.rounded_feeds(where),
        )
        scales = {name: self.ranks.agreed(of_input) for name, of_input in mixed.items()}
        return fold(layer.state_dict(), statistics, scales, self.dtype, **heads)

    def fold_head(self, hidden: HiddenStates, sensitivity: Tensor) -> Head:
        """Fold column scales into the head.

        hidden: inputs of the final norm. sensitivity: of the logits, float32 [vocabulary].
        """
        before, after = self.ranks.others(len(hidden))
        rows = max(1, SAMPLED_ROWS // (before + len(hidden) + after))
        seen = head_statistics(self.decoder, hidden, hidden.shape[1], rows, self.generator, self.ranks)
        recipe = self.recipe
        return fold_head(
            self.decoder,
            seen,
            sensitivity,
            recipe.damping,
            self.dtype,
            shared=self.shared,
            activations=recipe.activations,
        )
