"""A linear layer that keeps its weight compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tilepress.kernels import linear

if TYPE_CHECKING:
    from tilepress.checkpoint import CompressedLinear as StoredLinear


class CompressedLinear(nn.Module):
    """y = (x_q @ weight.T + quant_bias) * deq_scale with x_q = clamp(round(x / input_scale) + input_offset, -128, 127).

    Where the directory was made for it, a token that the clamp would change gets a scale and an offset of its own
    instead: see `tilepress.kernels.linear`.

    Buffers: weight int8 [bytes], index int8 [8 * tiles], info int64 [5], input_scale float32 [1],
    input_offset int32 [1], deq_scale float32 [n], quant_bias int32 [n], and for tokens with a scale of their own
    weight_sums int32 [n]. `forward` takes float32, bfloat16 or float16 [..., k] and gives [..., n] of the same dtype;
    accumulation is int32.
    """

    weight: Tensor
    index: Tensor
    info: Tensor
    input_scale: Tensor
    input_offset: Tensor
    deq_scale: Tensor
    quant_bias: Tensor

    def __init__(self, stored: StoredLinear) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.weight.shape
        self.register_buffer("weight", shared(stored.weight.weight))
        self.register_buffer("index", shared(stored.weight.index))
        self.register_buffer("info", shared(stored.weight.info))
        self.register_buffer("input_scale", torch.tensor([stored.input_scale], dtype=torch.float32))
        self.register_buffer("input_offset", torch.tensor([stored.input_offset], dtype=torch.int32))
        self.register_buffer("deq_scale", stored.deq_scale)
        self.register_buffer("quant_bias", stored.quant_bias)
        if stored.weight_sums is not None:
            self.register_buffer("weight_sums", stored.weight_sums)

        self._operands = tuple(self.buffers())

    def forward(self, x: Tensor) -> Tensor:
        # In a tuple, because looking up seven buffers of a module takes 3 microseconds, some hundred times a token.
        return linear(x, *self._operands)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedLinear:
        """Called by `to`, `half` and the like: moves the buffers, and the tuple with them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._operands = tuple(self.buffers())
        return self

    @property
    def bits(self) -> float:
        """Stored bits a weight: tiles, index and info."""
        stored = self.weight.nbytes + self.index.nbytes + self.info.nbytes
        return 8 * stored / (self.out_features * self.in_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits:.2f}"


def shared(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor; torch has no read-only tensors, so arrays that are, small ones, are copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
