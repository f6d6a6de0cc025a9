"""A linear layer that keeps its weight compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from tilepress.engines.operands import linear_operands
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
        for name, tensor in linear_operands(stored).items():
            self.register_buffer(name, tensor)
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
