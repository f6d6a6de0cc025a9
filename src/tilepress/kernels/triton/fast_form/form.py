"""A matrix in the fast form as a device takes it, made on the host from `codec.encode_resident`'s.

The codes stay as they are. Patches, which that form lists by tile, are listed by row here, so that a program that has a
row has all of its patches. The index is int32, one after the other:

    2 a tile, row of tiles by row    offset of its codes in `weight` / 64;  width | low << 8
    n + 1                            where the patches of each row begin, and where the last one's end
    1 a patch                        column << 9 | value - decoded value + 256, by columns in a row

width: bits of a code, 0 or 4 to 7, which stands for low + code; or 8: bytes that are the values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilepress.codec import RESIDENT_FORM, TILE_COLUMNS, TILE_ROWS, Compressed
from tilepress.kernels.op import require
from tilepress.kernels.triton.matrix import DeviceMatrix, require_alignment

DEVICE_FORM = 0x54500004
# Columns that a patch can name.
MOST_COLUMNS = 1 << 22
TILE_FRACTALS = 8
FRACTAL_COLUMNS = 32
SYMBOLS = 512


class FastMatrix(DeviceMatrix):
    """In the form above. index: int32."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What kernels take of it: weight, weight_bytes, index, tiles, patches, info."""
        return self.weight, self.weight.numel(), self.index, self.tiles, self.patches, self.info

    @property
    def k_index(self) -> int:
        """Tiles across."""
        return -(-self.k // TILE_COLUMNS)

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE_ROWS) * self.k_index

    @property
    def patches(self) -> int:
        return self.index.numel() - 2 * self.tiles - self.n - 1


def check_fast_matrix(weight: Tensor, index: Tensor, info: Tensor, n: int, k: int) -> FastMatrix:
    """Return the matrix. Raises ValueError for another dtype, length or layout; the kernels check the contents."""
    require("weight", weight, torch.int8, weight.numel())
    require("index", index, torch.int32, index.numel())
    require("info", info, torch.int64, 5)
    matrix = FastMatrix(weight.view(-1).view(torch.uint8), index.view(-1), info, n, k)
    require_alignment(weight=weight)
    if matrix.patches < 0:
        raise ValueError(
            f"index is torch.int32 [{index.numel()}]; [{index.numel() - matrix.patches}] or more is needed"
        )
    return matrix


def to_device_form(compressed: Compressed) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.int64]]:
    """Return (weight, index, info) of a matrix in the form of `codec.encode_resident`; weight is the same memory.

    Raises ValueError for another form, and for more than MOST_COLUMNS columns.
    """
    if int(compressed.info[4]) != RESIDENT_FORM or compressed.k > MOST_COLUMNS:
        raise ValueError(f"version {int(compressed.info[4]):#x} with {compressed.k} columns has no form for devices")
    tiles = compressed.n_index * compressed.k_index
    raw = compressed.index.view(np.uint8)
    entries = raw[: 8 * tiles].view("<u8")
    starts = raw[8 * tiles : 12 * tiles + 4].view("<u4").astype(np.int64)
    patches = int(starts[-1])
    values_at = 12 * tiles + 4 + 2 * patches
    positions = raw[12 * tiles + 4 : values_at].view("<u2").astype(np.int64)
    values = raw[values_at:].view(np.int8).astype(np.int64)

    offsets = (entries & np.uint64((1 << 48) - 1)).astype(np.int64)
    widths = (entries >> np.uint64(48)).astype(np.int64) - 1
    i, j = np.divmod(np.arange(tiles), compressed.k_index)
    down = np.minimum(TILE_FRACTALS, compressed.n1 - i * TILE_FRACTALS)
    across = np.minimum(TILE_FRACTALS, compressed.k1 - j * TILE_FRACTALS)
    # The first value stands behind the codes.
    tables = offsets + SYMBOLS // 8 * widths * down * across
    raw_bytes = widths == 8
    lows = np.where(raw_bytes, 0, compressed.weight[np.where(raw_bytes, 0, tables)].astype(np.int64))

    tile = np.repeat(np.arange(tiles), starts[1:] - starts[:-1])
    fractal, symbol = np.divmod(positions, SYMBOLS)
    row = TILE_ROWS * i[tile] + 16 * (fractal // across[tile]) + symbol % 64 // 4
    column = TILE_COLUMNS * j[tile] + FRACTAL_COLUMNS * (fractal % across[tile]) + symbol // 64 * 4 + symbol % 4
    decoded = np.where(values < lows[tile], lows[tile], lows[tile] + (1 << widths[tile]) - 1)
    order = np.argsort(row * compressed.k + column)
    packed = (column << 9 | (values - decoded + 256))[order]
    row_starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=compressed.n))])

    of_tiles = np.stack([offsets // 64, widths | lows << 8], axis=1).ravel()
    index = np.concatenate([of_tiles, row_starts, packed]).astype(np.int32)
    info = compressed.info.copy()
    info[4] = DEVICE_FORM
    return compressed.weight, index, info
