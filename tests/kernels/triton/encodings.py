"""Compressed matrices in any widths, not only in those that are smallest, on the device that the kernels run on."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tilepress.codec import Compressed, reference
from tilepress.kernels.triton.matrix import Matrix, check_matrix

# Each with a shape of some tiles; of more than the eight strips that are decoded at a time, where tiles are high.
TILINGS = [((1, 1), (33, 70)), ((64, 1), (140, 40)), ((1, 64), (33, 100)), ((3, 5), (70, 170))]
TERMINAL = [(width,) for width in range(9)]
TWO_LEVELS = [(escaping, terminal) for escaping in range(1, 8) for terminal in (escaping % 3, 8 - escaping, 8)]
DEEP = [(1, 1, 0), (2, 2, 5), (1, 3, 8), (3, 1, 1, 2), (1, 1, 1, 8), (2, 4, 6, 0), (7, 5, 3, 1)]


def in_widths(matrix: np.ndarray, widths: tuple[int, ...], tiling: tuple[int, int] = (8, 8)) -> Compressed:
    """`matrix` with tiles of these widths. It may not have more values than they code."""
    with mock.patch.object(reference, "choose_widths", return_value=widths):
        return reference.encode(matrix, *tiling)


def matrices_in_all_widths() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Matrices of 2 strips and 3 fractals across, ragged, with as many values as the widths can code."""
    rng = np.random.default_rng(0)
    for widths in (*TERMINAL, *TWO_LEVELS, *DEEP):
        values = sum((1 << width) - 1 for width in widths[:-1]) + (1 << widths[-1])
        ranked = rng.permutation(np.arange(-128, 128))[: min(values, 256)]
        ranks = np.minimum(rng.geometric(2.0 / len(ranked) if len(ranked) > 2 else 0.6, (20, 70)) - 1, len(ranked) - 1)
        matrix = ranked[ranks].astype(np.int8)
        # Padding is zeros, and every level needs a value.
        matrix.ravel()[: len(ranked)] = ranked
        if not (ranked == 0).any():
            matrix[matrix == ranked[-1]] = 0
        yield widths, matrix


def operands(compressed: Compressed) -> tuple[Tensor, Tensor, Tensor]:
    """weight, index and info as tensors of their own."""
    parts = (compressed.weight, compressed.index, compressed.info)
    weight, index, info = (torch.from_numpy(np.array(part)) for part in parts)
    return weight, index, info


def as_matrix(compressed: Compressed) -> Matrix:
    return check_matrix(*operands(compressed), compressed.n, compressed.k)
