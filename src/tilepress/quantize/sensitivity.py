"""How much the loss depends on each output channel: the diagonal of the Fisher information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tilepress.checkpoint.feeds import LINEARS
from tilepress.quantize.decoder import POSITIONS, LayerwiseDecoder
from tilepress.quantize.statistics import InputStatistics, StatisticsCollector


@dataclass(frozen=True)
class LayerSensitivity:
    """layer: the materialised decoder layer. statistics: of its inputs.

    gradients: G_o = E[(dloss/dy_o)²] of every linear, float32 [n], over the same tokens. of_input: the squared gradient
    at what the layer itself reads, mean over its channels, float32 [sequences, length]; layer 0 reads the embedding.
    """

    index: int
    layer: nn.Module
    gradients: dict[str, Tensor]
    of_input: Tensor
    statistics: dict[str, InputStatistics]


def layer_sensitivities(
    decoder: LayerwiseDecoder, inputs: Sequence[Tensor] | Tensor, final: Tensor, generator: torch.Generator
) -> Iterator[LayerSensitivity]:
    """One backward pass through the model, last layer first; what is yielded is valid until the next one is asked for.

    inputs: what each decoder layer reads, [sequences, length, hidden] on any device; final: the last one's output.
    The loss is the cross entropy, summed over positions, of labels *sampled from the model itself* (true Fisher
    information, Kunstner et al. 2019). Each layer is materialised and run again with gradients, so that memory holds
    one layer's weights and the activations of one sequence.
    """
    gradient = _gradient_of_sampled_loss(decoder, final, generator)
    arguments = decoder.layer_arguments(final.shape[1])
    for index in reversed(range(decoder.layers)):
        with decoder.layer(index) as layer:
            with _SquaredGradients(layer) as squares, StatisticsCollector(layer, 1, generator) as collector:
                for s in range(len(final)):
                    hidden = inputs[index][s : s + 1].to(gradient.device).requires_grad_(True)
                    with torch.enable_grad():
                        output = layer(hidden, **arguments[index])
                    torch.autograd.backward(output, gradient[s : s + 1])
                    assert hidden.grad is not None
                    gradient[s] = hidden.grad[0]
            of_input = gradient.square().mean(dim=-1)
            yield LayerSensitivity(index, layer, squares.mean(), of_input, collector.result())


def _gradient_of_sampled_loss(decoder: LayerwiseDecoder, final: Tensor, generator: torch.Generator) -> Tensor:
    """[sequences, length, hidden], POSITIONS logits at a time: 512 of a vocabulary of 152 thousand take gigabytes."""
    head = decoder.head()
    gradient = torch.empty_like(final)
    for s in range(len(final)):
        # Inverse-transform sampling with uniform numbers of a CPU generator: the same labels on any device.
        uniform = torch.rand(final.shape[1], 1, generator=generator, dtype=torch.float64).to(final.device)
        parts = zip(*(torch.split(whole, POSITIONS) for whole in (final[s], uniform, gradient[s])), strict=True)
        for states, drawn, of_states in parts:
            hidden = states.clone().requires_grad_(True)
            with torch.enable_grad():
                logits = head(hidden)
            with torch.no_grad():
                labels = torch.searchsorted(logits.double().softmax(-1).cumsum(-1), drawn)[:, 0]
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(logits, labels.clamp_(max=logits.shape[-1] - 1), reduction="sum")
            torch.autograd.backward(loss)
            assert hidden.grad is not None
            of_states.copy_(hidden.grad)
    return gradient


class _SquaredGradients:
    """Sums the squared gradients at the outputs of a layer's linears while it runs backward."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _SquaredGradients:
        for name in LINEARS:
            self._handles.append(self._layer.get_submodule(name).register_forward_hook(self._watch(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str):  # type: ignore[no-untyped-def]
        def forward_hook(_: nn.Module, __: object, output: Tensor) -> None:
            output.register_hook(add)  # type: ignore[no-untyped-call]

        def add(gradient: Tensor) -> None:
            flat = gradient.reshape(-1, gradient.shape[-1])
            self._sums[name] = self._sums.get(name, torch.zeros_like(flat[0])) + flat.square().sum(dim=0)
            self._tokens[name] = self._tokens.get(name, 0) + len(flat)

        return forward_hook

    def mean(self) -> dict[str, Tensor]:
        return {name: total / self._tokens[name] for name, total in self._sums.items()}
