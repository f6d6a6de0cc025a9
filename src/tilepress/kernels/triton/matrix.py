"""A compressed matrix as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.kernels.op import require

# Kernels load 16 bytes at a time.
ALIGNMENT = 16


@dataclass(frozen=True)
class DeviceMatrix:
    """weight: uint8 [bytes], index, info: int64 [5], on one device; n and k, which info has to give."""

    weight: Tensor
    index: Tensor
    info: Tensor
    n: int
    k: int

    @property
    def fractal_rows(self) -> int:
        return -(-self.n // 16)


class Matrix(DeviceMatrix):
    """As stored. index: int64 [tiles]."""


def check_matrix(weight: Tensor, index: Tensor, info: Tensor, n: int, k: int) -> Matrix:
    """Return the matrix. Raises ValueError for another dtype, length or layout; the kernels check the contents."""
    require("weight", weight, torch.int8, weight.numel())
    require("index", index, torch.int8, index.numel() // 8 * 8)
    require("info", info, torch.int64, 5)
    require_alignment(weight=weight, index=index)
    return Matrix(weight.view(-1).view(torch.uint8), index.view(-1).view(torch.int64), info, n, k)


def require_alignment(**tensors: Tensor) -> None:
    """Raises ValueError for a tensor that does not begin where kernels can load it."""
    for name, tensor in tensors.items():
        if tensor.data_ptr() % ALIGNMENT:
            raise ValueError(f"{name} begins at {tensor.data_ptr():#x}; a multiple of {ALIGNMENT} is needed")
