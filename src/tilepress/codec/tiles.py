"""Tiles of a compressed matrix as bytes: taken out, and put together to another matrix without decoding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilepress.codec.coding import decode
from tilepress.codec.compressed import FRACTAL_COLUMNS, FRACTAL_ROWS, Compressed, Int8Array, make_info

_OFFSET = np.uint64((1 << 48) - 1)


@dataclass(frozen=True)
class Run:
    """Tiles that follow one another: their bytes, and their index entries with offsets counted from the first."""

    weight: Int8Array
    entries: NDArray[np.uint64]


class Tiles:
    """The tiles of a matrix that has passed `check_index`. height, width: rows and columns of a whole tile."""

    def __init__(self, matrix: Compressed) -> None:
        self.matrix = matrix
        self.height, self.width = FRACTAL_ROWS * matrix.tiling_n, FRACTAL_COLUMNS * matrix.tiling_k
        self._entries = matrix.entries()
        self._bounds = [*(self._entries & _OFFSET).tolist(), len(matrix.weight)]

    def run(self, i: int, first: int, last: int) -> Run:
        """Tiles (i, first) to (i, last - 1)."""
        row = i * self.matrix.k_index
        begin, end = self._bounds[row + first], self._bounds[row + last]
        return Run(self.matrix.weight[begin:end], self._entries[row + first : row + last] - np.uint64(begin))

    def decoded(self, rows: tuple[int, int], columns: tuple[int, int], threads: int | None) -> Int8Array:
        """Return rows and columns [start, stop) as int8. Only the tiles that hold them are decoded.

        Raises BitstreamError for damage in these tiles; its tile numbers count from the first of them.
        """
        top, left = rows[0] // self.height, columns[0] // self.width
        bottom, right = -(-rows[1] // self.height), -(-columns[1] // self.width)
        n = min(self.matrix.n, bottom * self.height) - top * self.height
        k = min(self.matrix.k, right * self.width) - left * self.width
        block = assemble((self.run(i, left, right) for i in range(top, bottom)), n, k, self.matrix)
        plain = decode(block, threads=threads)[rows[0] - top * self.height :, columns[0] - left * self.width :]
        return plain[: rows[1] - rows[0], : columns[1] - columns[0]]


def assemble(runs: Iterable[Run], n: int, k: int, like: Compressed) -> Compressed:
    """Return the matrix [n, k] that `runs`, all its tiles in index order, make up; its tiling is that of `like`."""
    runs = list(runs)
    offsets = np.cumsum([0, *(len(run.weight) for run in runs[:-1])]).astype(np.uint64)
    entries = np.concatenate([run.entries + offset for run, offset in zip(runs, offsets, strict=True)])
    return Compressed(
        weight=np.concatenate([run.weight for run in runs]),
        index=entries.astype("<u8").view(np.int8),
        info=make_info(n, k, like.tiling_n, like.tiling_k),
    )
