"""Decoding tiles to plain int8."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilepress.errors import BitstreamError
from tilepress.kernels.triton.machine import TILE_REGISTERS, TILE_WARPS, programs
from tilepress.kernels.triton.matrix import Matrix
from tilepress.kernels.triton.strips import FRACTAL_WORDS, STRIPS, first_ranks, read_pair, wrong_ranks
from tilepress.kernels.triton.tile import SCRATCH_BYTES, open_tile, read_info

LARGEST_TILE = tl.constexpr(64)  # fractals


@triton.jit
def _decode_tiles(
    weight, weight_bytes, index, tiles, info, n, k, scratch, out, damaged, first_row, rows, width
):  # fmt: skip
    """Decode the tiles that hold rows first_row to first_row + rows - 1 into `out` [rows, width]."""
    tiling_n, tiling_k, n1, k1, k_index = read_info(info, n, k, tiles)
    if k_index == 0:
        for strip in range(tl.program_id(0), (n + 15) // 16, tl.num_programs(0)):
            tl.store(damaged + strip, 1)
    first_i = first_row // (16 * tiling_n)
    end_i = tl.minimum((first_row + rows + 16 * tiling_n - 1) // (16 * tiling_n), (n1 + tiling_n - 1) // tiling_n)
    own = scratch + tl.program_id(0) * SCRATCH_BYTES
    words = out.to(tl.pointer_type(tl.uint32))
    word = tl.arange(0, FRACTAL_WORDS)[None, :]
    for tile in range(first_i * k_index + tl.program_id(0), end_i * k_index, tl.num_programs(0)):
        i, j = tile // k_index, tile % k_index
        strips, fractals = tl.minimum(tiling_n, n1 - i * tiling_n), tl.minimum(tiling_k, k1 - j * tiling_k)
        tl.debug_barrier()  # the tile before is done with the scratch memory
        start, bits, table, is_run, first, escaping, sync, symbols, sound = open_tile(
            weight, weight_bytes, index, tile, strips, fractals, own
        )
        wrong = 1 - sound.to(tl.int32)
        for top in range(0, strips * sound, STRIPS):
            strip = top + tl.arange(0, STRIPS)
            present = strip < strips
            rank = first_ranks(sync, strip, present, escaping)
            row = (i * tiling_n + strip)[:, None] * 16 + word % 16 - first_row
            inside = present[:, None] & (row >= 0) & (row < rows)
            for column in range(0, fractals, 2):
                a, b, rank = read_pair(
                    start, bits, table, is_run, first, escaping, own, symbols, strip, present, column, fractals, rank
                )
                at = words + row.to(tl.int64) * (width // 4) + (j * tiling_k + column) * 8 + word // 16
                tl.store(at, a, mask=inside)
                tl.store(at + 8, b, mask=inside & (column + 1 < fractals))
            wrong += wrong_ranks(sync, strip, present, escaping, rank)
        if wrong > 0:
            strip = tl.arange(0, LARGEST_TILE)
            tl.store(damaged + i * tiling_n + strip, tl.full([LARGEST_TILE], 1, tl.int32), mask=strip < strips)


def decode_rows(matrix: Matrix, out: Tensor, damaged: Tensor, scratch: Tensor, first_row: int) -> None:
    """Decode rows first_row, first_row + 1, ... of the matrix into out, int8 [rows, width].

    width: a multiple of 32, at least k; columns from k on become 0 where they belong to a tile, and else stay as they
    are. damaged: int32 [rows of fractals]; entries become 1 where a tile is damaged, and `out` is undefined in their 16
    rows; other entries stay as they are. scratch: from `scratch_memory`.
    """
    _decode_tiles[(scratch.numel() // SCRATCH_BYTES.value,)](
        matrix.weight,
        matrix.weight.numel(),
        matrix.index,
        matrix.index.numel(),
        matrix.info,
        matrix.n,
        matrix.k,
        scratch,
        out.view(torch.uint8),
        damaged,
        first_row,
        out.shape[0],
        out.shape[1],
        num_warps=TILE_WARPS,
        maxnreg=TILE_REGISTERS,
    )


def scratch_memory(matrix: Matrix) -> Tensor:
    """Return uint8 memory, 64 KiB for each program that will decode the matrix."""
    count = programs(matrix.index.device, matrix.index.numel())
    return torch.empty(count * SCRATCH_BYTES.value, dtype=torch.uint8, device=matrix.index.device)


def decode(matrix: Matrix) -> Tensor:
    """Return the int8 matrix [n, k]. Waits for the device. Raises BitstreamError that names the first damaged rows."""
    device = matrix.index.device
    out = torch.empty((matrix.n, -(-matrix.k // 32) * 32), dtype=torch.int8, device=device)
    damaged = torch.zeros(matrix.fractal_rows, dtype=torch.int32, device=device)
    decode_rows(matrix, out, damaged, scratch_memory(matrix), 0)
    if bool(damaged.any()):
        row = 16 * int(damaged.argmax())
        raise BitstreamError(f"a tile of row {row} is damaged; get the file again, or compress the model again")
    return out[:, : matrix.k]
