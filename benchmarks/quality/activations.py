"""Our int8 activations by themselves: in a float model whose weights are folded but not rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.quality.layers import DTYPE, Layer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tilepress.quantize.rounding.layer import activation_range
from tilepress.quantize.transforms.activation_ranges import ActivationRange


class Overflowing:
    """Counts the rows at the inputs of linears that leave the range and have scales of their own."""

    def __init__(self) -> None:
        self.rows = self.outside = 0

    def add(self, overflows: Tensor) -> None:
        """overflows: bool, one a row."""
        self.rows += overflows.numel()
        self.outside += int(overflows.sum())

    def share(self) -> float:
        return self.outside / self.rows


@contextmanager
def quantized_inputs(model: PreTrainedModel, layers: Sequence[Layer], mode: str) -> Iterator[Overflowing]:
    """Inside, the linears of `model`, which has the folded tensors of `layers`, read int8 with the ranges of a mode.

    mode: of the activations, as in Recipe.
    """
    seen = Overflowing()
    handles = []
    for layer in layers:
        module = model.model.layers[layer.index]
        for group in layer.groups:
            inputs = activation_range(group, mode, DTYPE, layer.name(group.feed.name))
            for position, reader in enumerate(group.feed.consumers):
                counter = seen if position == 0 else None  # they all read the same rows
                handles.append(module.get_submodule(reader).register_forward_pre_hook(_rounds(inputs, counter)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _rounds(
    inputs: ActivationRange, seen: Overflowing | None
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = arguments
        if seen is not None:
            seen.add(inputs.overflows(x))
        return (inputs.round_trip(x),)

    return before
