"""The three tensors that hold one compressed int8 matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilepress.errors import BitstreamError

BITSTREAM_V1 = 0x54500001
# In memory only: tiles of a run of values, and patches for what lies outside it (csrc/codec/resident.hpp).
RESIDENT_FORM = 0x54500003
FRACTAL_ROWS, FRACTAL_COLUMNS = 16, 32
# Rows and columns of a whole tile that the encoder makes.
TILE_ROWS, TILE_COLUMNS = 8 * FRACTAL_ROWS, 8 * FRACTAL_COLUMNS
FRACTAL_SYMBOLS = FRACTAL_ROWS * FRACTAL_COLUMNS
MAX_TILE_FRACTALS = 64
TILING = 8

Int8Array = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class CodedMatrix:
    """An int8 matrix [n, k] in one of its compressed forms.

    weight: int8 [x]. index: int8 [y]. info: int64 [5], of which the third is k, the fourth n and the last the version.
    Raises BitstreamError for another dtype or length of info.
    """

    weight: Int8Array
    index: Int8Array
    info: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, array, dtype in (
            ("weight", self.weight, np.int8),
            ("index", self.index, np.int8),
            ("info", self.info, np.int64),
        ):
            if array.ndim != 1 or array.dtype != dtype:
                raise BitstreamError(f"{name} is {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} [...]")
        if len(self.info) != 5:
            raise BitstreamError(f"info has {len(self.info)} entries, not 5")

    @property
    def n(self) -> int:
        """Rows of the matrix."""
        return int(self.info[3])

    @property
    def k(self) -> int:
        """Columns of the matrix."""
        return int(self.info[2])

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.k

    @property
    def nbytes(self) -> int:
        """Bytes of the three tensors."""
        return self.weight.nbytes + self.index.nbytes + self.info.nbytes


class Compressed(CodedMatrix):
    """An int8 matrix [n, k] as tiles (docs/reference/bitstream.md).

    weight: int8 [x], the tiles. index: int8 [8 * n_index * k_index], one little-endian 64-bit entry a tile.
    info: int64 [5], (tiling_k, tiling_n, k, n, version). `validate` checks more than the types.

    Or in the resident form, for memory only, whose index has more entries: see `encode_resident`.
    """

    @property
    def tiling_n(self) -> int:
        """Fractals of a whole tile, downwards."""
        return int(self.info[1])

    @property
    def tiling_k(self) -> int:
        """Fractals of a whole tile, across."""
        return int(self.info[0])

    @property
    def n1(self) -> int:
        """Fractals of the matrix, downwards."""
        return -(-self.n // FRACTAL_ROWS)

    @property
    def k1(self) -> int:
        """Fractals of the matrix, across."""
        return -(-self.k // FRACTAL_COLUMNS)

    @property
    def n_index(self) -> int:
        """Tiles of the matrix, downwards."""
        return -(-self.n1 // self.tiling_n)

    @property
    def k_index(self) -> int:
        """Tiles of the matrix, across."""
        return -(-self.k1 // self.tiling_k)

    def entries(self) -> NDArray[np.uint64]:
        """The index as uint64 [n_index * k_index]."""
        return np.frombuffer(self.index.tobytes(), "<u8")

    def tiles(self) -> Iterator[tuple[int, int, int, int]]:
        """(i, j, r, c) of each tile in index order: its number, and its fractals downwards and across."""
        for i in range(self.n_index):
            for j in range(self.k_index):
                r = min(self.tiling_n, self.n1 - i * self.tiling_n)
                c = min(self.tiling_k, self.k1 - j * self.tiling_k)
                yield i, j, r, c


def make_info(
    n: int, k: int, tiling_n: int = TILING, tiling_k: int = TILING, version: int = BITSTREAM_V1
) -> NDArray[np.int64]:
    """The info tensor of a matrix [n, k]."""
    return np.array([tiling_k, tiling_n, k, n, version], np.int64)
