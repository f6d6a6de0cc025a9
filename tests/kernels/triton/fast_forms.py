"""Matrices in the fast form for devices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tilepress import codec
from tilepress.kernels.triton.fast_form.form import to_device_form


def device_form(matrix: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """weight, index and info as tensors of their own."""
    weight, index, info = to_device_form(codec.encode_resident(matrix))
    return torch.from_numpy(weight.copy()), torch.from_numpy(index), torch.from_numpy(info)


def of_all_widths(n: int, k: int) -> np.ndarray:
    """Tiles of codes of 0 and 4 to 8 bits in turn, with 1 % of the values far outside."""
    rng = np.random.default_rng(0)
    matrix = np.empty((n, k), np.int8)
    spreads = (0.0, 2.5, 6.0, 12.0, 25.0, 90.0)
    tiles = [(i, j) for i in range(0, n, 128) for j in range(0, k, 256)]
    for number, (i, j) in enumerate(tiles):
        part = matrix[i : i + 128, j : j + 256]
        values = rng.normal(rng.integers(-20, 20), spreads[number % len(spreads)], part.shape)
        part[:] = np.clip(np.rint(values), -128, 127)
        part[rng.random(part.shape) < 0.01] = rng.choice([-128, 127])
    return matrix
