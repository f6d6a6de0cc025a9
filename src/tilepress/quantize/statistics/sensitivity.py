"""Sensitivity of the loss to the outputs of each linear: the Fisher information, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tilepress.distributed.communicator import ALONE, Communicator
from tilepress.models.layer_inputs import FEEDS
from tilepress.quantize.layerwise.decoder import POSITIONS, LayerwiseDecoder
from tilepress.quantize.layerwise.hidden_states import HiddenStates
from tilepress.quantize.statistics.fisher import BLOCK
from tilepress.quantize.statistics.input_statistics import InputStatistics, StatisticsCollector

# Positions whose cumulative probabilities, in float64, are in memory at a time.
DRAWN = 128


@dataclass(frozen=True)
class LayerSensitivity:
    """layer: the materialised decoder layer. statistics: of its inputs.

    fisher: E[(dloss/dy)(dloss/dy)ᵀ] of the outputs y of each group of fused linears, over the same tokens, in blocks
    of 128 rows on the diagonal, float32 [ceil(n / 128), 128, 128], by the names of FEEDS. Products of outputs of
    different linears are left out. of_input: the squared gradient at the input of the layer, mean over its channels,
    float32 [sequences, length]; layer 0 reads the embedding.
    """

    index: int
    layer: nn.Module
    fisher: dict[str, Tensor]
    of_input: Tensor
    statistics: dict[str, InputStatistics]


@contextmanager
def layer_sensitivity(
    decoder: LayerwiseDecoder,
    index: int,
    inputs: Iterable[Tensor],
    arguments: Mapping[str, Any],
    gradient: Tensor,
    generator: torch.Generator,
    ranks: Communicator = ALONE,
    counted: Tensor | None = None,
) -> Iterator[LayerSensitivity]:
    """Run one decoder layer backward. The yielded result is valid inside the block.

    inputs: of the layer, in sequences [1, length, hidden] on any device. arguments: its other arguments. gradient: of
    the loss at the layer's output, [sequences, length, hidden] on the device; it is replaced by that at its input. The
    layer is materialised and run again with gradients, so that memory holds one layer's weights and the activations of
    one sequence.

    counted: bool [sequences, length], the tokens whose gradients are summed; None for all. Each rank passes its share
    of the sequences; the result is over all sequences.
    """
    before, after = ranks.others(len(gradient))
    length = gradient.shape[1]
    with decoder.layer(index) as layer:
        with _OutputGradients(layer) as gradients, StatisticsCollector(layer, 1, generator) as collector:
            collector.skip([length] * before)
            for number, (of_sequence, sequence) in enumerate(zip(gradient[:, None], inputs, strict=True)):
                gradients.counted = None if counted is None or bool(counted[number].all()) else counted[number]
                hidden = sequence.to(decoder.device).requires_grad_(True)
                with torch.enable_grad():
                    output = layer(hidden, **arguments)
                torch.autograd.backward(output, of_sequence)
                assert hidden.grad is not None
                of_sequence.copy_(hidden.grad)
            collector.skip([length] * after)
        of_input = ranks.concatenated(gradient.square().mean(dim=-1))
        yield LayerSensitivity(index, layer, gradients.mean(ranks), of_input, collector.result(ranks))


def gradient_of_sampled_loss(
    decoder: LayerwiseDecoder,
    final: HiddenStates | Sequence[Tensor],
    length: int,
    generator: torch.Generator,
    ranks: Communicator = ALONE,
) -> Tensor:
    """Return the loss' gradient at the inputs of the final norm, [sequences, length, hidden] on the device.

    final: these inputs, in sequences [1, length, hidden] of this rank. The loss is the cross entropy, summed over
    positions, of labels *sampled from the model itself* (true Fisher information, Kunstner et al. 2019).
    """
    before, after = ranks.others(len(final))
    # Inverse-transform sampling with uniform numbers of a CPU generator: the same labels on any device and any rank.
    drawn = torch.rand(before + len(final) + after, length, 1, generator=generator, dtype=torch.float64)
    gradient = torch.empty(len(final), length, decoder.hidden, device=decoder.device)
    for of_sequence, states, uniform in zip(gradient, final, drawn[before : before + len(final)], strict=True):
        of_sequence.copy_(_gradient_of_sequence(decoder, states.to(decoder.device)[0], uniform.to(decoder.device)))
    return gradient


def _gradient_of_sequence(decoder: LayerwiseDecoder, states: Tensor, uniform: Tensor) -> Tensor:
    """Return the gradient [length, hidden] for states [length, hidden], POSITIONS positions at a time.

    uniform: a number in [0, 1) for each position. At the logits the gradient is p - onehot(label). The head is read
    twice for each part: for the logits and for the gradient.
    """
    norm = decoder.norm()
    gradients = []
    for part, drawn in zip(torch.split(states, POSITIONS), torch.split(uniform, POSITIONS), strict=True):
        hidden = part.clone().requires_grad_(True)
        with torch.enable_grad():
            normed = norm(hidden)
        p = decoder.logits(normed.detach()).softmax(dim=-1)
        p.scatter_add_(1, sampled_labels(p, drawn)[:, None], torch.full_like(drawn, -1.0, dtype=p.dtype))
        at_norm = torch.zeros_like(part)
        for rows, block in decoder.head_blocks():
            at_norm.addmm_(p[:, rows], block)
        torch.autograd.backward(normed, at_norm)
        assert hidden.grad is not None
        gradients.append(hidden.grad)
    return torch.cat(gradients)


def sampled_labels(p: Tensor, drawn: Tensor) -> Tensor:
    """Return labels int64 [positions]. p: float32 [positions, vocabulary]. drawn: uniform, float64 [positions, 1]."""
    labels = [
        torch.searchsorted(some.double().cumsum(-1), numbers)[:, 0]
        for some, numbers in zip(torch.split(p, DRAWN), torch.split(drawn, DRAWN), strict=True)
    ]
    return torch.cat(labels).clamp_(max=p.shape[-1] - 1)


class _OutputGradients:
    """Sums the products of the gradients at the outputs of a layer's linears while it runs backward.

    counted: bool [tokens], those of the sequence under way that are summed; None for all.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self.counted: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._tokens = dict.fromkeys((feed.name for feed in FEEDS), 0)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _OutputGradients:
        for feed in FEEDS:
            rows = 0
            for name in feed.consumers:
                module = self._layer.get_submodule(name)
                weight = module.get_parameter("weight")
                self._handles.append(module.register_forward_hook(self._watch(feed.name, rows)))
                rows += len(weight)
            self._sums[feed.name] = weight.new_zeros(-(-rows // BLOCK), BLOCK, BLOCK)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, feed: str, first: int):  # type: ignore[no-untyped-def]
        """first: of the linear's rows among those of the group."""

        def forward_hook(_: nn.Module, __: object, output: Tensor) -> None:
            output.register_hook(add)  # type: ignore[no-untyped-call]

        def add(gradient: Tensor) -> None:
            flat = gradient.reshape(-1, gradient.shape[-1])
            if self.counted is not None:
                flat = flat[self.counted]
            before = first % BLOCK
            padded = nn.functional.pad(flat, (before, -(before + flat.shape[1]) % BLOCK))
            blocks = padded.view(len(flat), padded.shape[1] // BLOCK, BLOCK).transpose(0, 1)
            self._sums[feed][first // BLOCK :][: len(blocks)].baddbmm_(blocks.transpose(1, 2), blocks)
            if first == 0:
                self._tokens[feed] += len(flat)

        return forward_hook

    def mean(self, ranks: Communicator) -> dict[str, Tensor]:
        """Return the means by the names of FEEDS, in the memory of the sums."""
        tokens = ranks.add_up(torch.tensor([self._tokens[feed.name] for feed in FEEDS]))
        return {
            feed.name: ranks.add_up(self._sums[feed.name]).div_(max(1, int(count)))
            for feed, count in zip(FEEDS, tokens, strict=True)
        }
