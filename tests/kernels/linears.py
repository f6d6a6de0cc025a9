"""Compressed linears, and what they have to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilepress import kernels
from tilepress.codec import Compressed, encode
from tilepress.kernels import reference


@dataclass(frozen=True)
class Linear:
    matrix: Tensor
    weight: Tensor
    index: Tensor
    info: Tensor
    input_scale: Tensor
    input_offset: Tensor
    deq_scale: Tensor
    quant_bias: Tensor
    call: Callable[..., Tensor] = kernels.linear

    def __call__(self, x: Tensor) -> Tensor:
        return self.call(x, *self.operands)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.weight, self.index, self.info, *self.scales)

    @property
    def scales(self) -> tuple[Tensor, ...]:
        return (self.input_scale, self.input_offset, self.deq_scale, self.quant_bias)

    @property
    def weight_sums(self) -> Tensor:
        return self.matrix.sum(1, dtype=torch.int32)

    def expected(self, x: Tensor) -> Tensor:
        return reference.linear(x, self.matrix, *self.scales)

    def with_own_scales(self, x: Tensor) -> Tensor:
        """As the call, but tokens that overflow are quantized by scales of their own."""
        return self.call(x, *self.operands, self.weight_sums)

    def expected_with_own_scales(self, x: Tensor) -> Tensor:
        return reference.linear(x, self.matrix, *self.scales, self.weight_sums)


def make_linear(
    matrix: np.ndarray, compressed: Compressed | None = None, *, scale: float = 0.03, seed: int = 0
) -> Linear:
    """A linear of `matrix`, or of its compressed form where that is not what `encode` makes of it."""
    stored = encode(matrix) if compressed is None else compressed
    generator = torch.Generator().manual_seed(seed)
    n = len(matrix)
    return Linear(
        torch.from_numpy(matrix),
        *(torch.from_numpy(np.array(part)) for part in (stored.weight, stored.index, stored.info)),
        torch.tensor([scale]),
        torch.randint(-128, 128, (1,), dtype=torch.int32, generator=generator),
        torch.rand(n, generator=generator) * 1e-3,
        torch.randint(-100_000, 100_000, (n,), dtype=torch.int32, generator=generator),
    )


def tokens(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
