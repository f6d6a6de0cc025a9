"""A linear layer that keeps its weight compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tilepress.codec import Compressed, decode
from tilepress.engines.operands import linear_operands
from tilepress.engines.transformers.compressed_embedding import moved
from tilepress.errors import UsageError
from tilepress.kernels import linear

if TYPE_CHECKING:
    from tilepress.checkpoint import CompressedLinear as StoredLinear

# Rows of a weight that are widened at a time for a gradient.
ROWS = 1024


class CompressedProduct(nn.Module):
    """y = (x_q @ weight.T + quant_bias) * deq_scale with x_q = clamp(round(x / input_scale) + input_offset, -128, 127).

    Given weight_sums, a token that overflows gets a dynamic scale and offset instead: see `tilepress.kernels.linear`.

    Buffers: weight int8 [bytes], index int8 [8 * tiles], info int64 [5], input_scale float32 [1],
    input_offset int32 [1], deq_scale float32 [n], quant_bias int32 [n], and weight_sums int32 [n] where the directory
    has it. `forward` takes float32, bfloat16 or float16 [..., k] and gives [..., n] of the same dtype; accumulation is
    int32. `backward` gives the gradient with respect to x, as if rounding and clamping x changed nothing
    (straight-through, Bengio et al. 2013); the weight has none.

    `to`, `half` and the like move the buffers and leave their dtypes.
    """

    weight: Tensor
    index: Tensor
    info: Tensor
    input_scale: Tensor
    input_offset: Tensor
    deq_scale: Tensor
    quant_bias: Tensor

    def __init__(self, stored: StoredLinear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own, of a subclass, makes a float weight
        self.out_features, self.in_features = stored.weight.shape
        for name, tensor in linear_operands(stored).items():
            self.register_buffer(name, tensor)
        self._operands = tuple(self.buffers())

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return cast(Tensor, _StraightThrough.apply(x, self))  # type: ignore[no-untyped-call]
        return self.multiply(x)

    def multiply(self, x: Tensor) -> Tensor:
        """Return y without its gradient."""
        # In a tuple, because looking up seven buffers of a module takes 3 microseconds, some hundred times a token.
        return linear(x, *self._operands)

    def input_gradient(self, dy: Tensor) -> Tensor:
        """Return dy [..., n] times the weight [n, k], in dy's dtype. Raises UsageError on a device that is not the CPU.

        The whole weight is decoded for it, int8, and widened some rows at a time.
        """
        if dy.device.type != "cpu":
            raise UsageError("gradients through compressed weights are computed on the CPU only; use device='cpu'")
        weight = torch.from_numpy(decode(Compressed(self.weight.numpy(), self.index.numpy(), self.info.numpy())))
        scaled = dy.float() * (self.deq_scale / self.input_scale)
        dx = torch.zeros(*dy.shape[:-1], self.in_features)
        parts = zip(torch.split(scaled, ROWS, dim=-1), torch.split(weight, ROWS), strict=True)
        for of_rows, rows in parts:
            dx += of_rows @ rows.float()
        return dx.to(dy.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedProduct:
        """Called by `to`, `half` and the like: moves the buffers, and the tuple with them."""
        super()._apply(partial(moved, fn), recurse)  # type: ignore[no-untyped-call]
        self._operands = tuple(self.buffers())
        return self

    @property
    def bits(self) -> float:
        """Stored bits a weight: tiles, index and info."""
        stored = self.weight.nbytes + self.index.nbytes + self.info.nbytes
        return 8 * stored / (self.out_features * self.in_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits:.2f}"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: CompressedProduct) -> Tensor:
        ctx.module = module
        return module.multiply(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return ctx.module.input_gradient(dy), None


class CompressedLinear(CompressedProduct, nn.Linear):
    """A linear of the model. A subclass of nn.Linear for the sake of tools that look for these, such as PEFT."""

    def __init__(self, stored: StoredLinear) -> None:
        super().__init__(stored)
        self.register_parameter("bias", None)


class FusedLinear(CompressedProduct):
    """Computes all members in one call; `members` stand where the model calls q_proj, k_proj and so on.

    The model calls the members in order, with the same input tensor: the first computes, the others take their slice,
    and after the last nothing of the call is held. Any other order raises RuntimeError rather than giving rows of a
    different input. A first member always starts anew, so that a call that an exception cut short does no harm.
    """

    def __init__(self, stored: StoredLinear, sizes: Sequence[int], names: Sequence[str]) -> None:
        """sizes: rows of each member, in order of the stored rows; names: what messages call them."""
        super().__init__(stored)
        self._sizes = list(sizes)
        self._names = list(names)
        # Of each thread, the input of the call under way, then the slices not yet taken, last member first. No
        # attributes of their own, because assigning those of a module costs a microsecond, some hundred times a token.
        self._calls: dict[int, list[Tensor]] = {}

    def members(self) -> list[FusedMember]:
        return [FusedMember(self, i, size) for i, size in enumerate(self._sizes)]

    def take(self, member: int, x: Tensor) -> Tensor:
        """Rows of `member` for input x [..., k], as a view [..., rows]. RuntimeError where called out of order."""
        thread = get_ident()
        if member == 0:
            call = [x, *reversed(torch.split_with_sizes(self(x), self._sizes, dim=-1))]
            self._calls[thread] = call
        else:
            call = self._calls.get(thread, [])
        if len(call) != 1 + len(self._sizes) - member or call[0] is not x:
            self._calls.pop(thread, None)
            raise RuntimeError(
                f"{self._names[member]} was called out of order: fused linears have to be called in the order "
                f"{', '.join(self._names)}, each with the same input tensor"
            )
        rows = call.pop()
        if len(call) == 1:
            del self._calls[thread]
        return rows


class FusedMember(nn.Linear):
    """One linear of a `FusedLinear`; holds no tensors of its own. weight: that of the fused linear."""

    def __init__(self, fused: FusedLinear, member: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.register_parameter("bias", None)
        self._take = fused.take  # a bound method: the module itself would be registered as a child, once a member
        self._member = member
        self.in_features, self.out_features = fused.in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        return self._take(self._member, x)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The compressed bytes, for tools that ask a linear for its device."""
        fused: FusedLinear = self._take.__self__  # type: ignore[attr-defined]
        return fused.weight

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
