"""Looking up rows of a compressed table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilepress.kernels.triton.machine import TILE_REGISTERS, TILE_WARPS, programs
from tilepress.kernels.triton.matrix import Matrix
from tilepress.kernels.triton.strips import FRACTAL_WORDS, STRIPS, first_ranks, read_pair, wrong_ranks
from tilepress.kernels.triton.tile import SCRATCH_BYTES, open_tile, read_info

FRACTALS_A_TILE = 8


@triton.jit
def _look_up(ids, count, weight, weight_bytes, index, tiles, info, n, k, weight_scale, scratch, out):
    """Fill out [count, k]. A piece is one token's part of one tile, of which one strip is decoded."""
    tiling_n, tiling_k, n1, k1, k_index = read_info(info, n, k, tiles)
    own = scratch + tl.program_id(0) * SCRATCH_BYTES
    word = tl.arange(0, FRACTAL_WORDS)[None, :]
    lane = tl.arange(0, STRIPS)
    pieces = tl.maximum(k_index, 1)
    for piece in range(tl.program_id(0), count * pieces, tl.num_programs(0)):
        token, j = piece // pieces, piece % pieces
        row = tl.load(ids + token)
        known = (row >= 0) & (row < n) & (k_index > 0)
        row = tl.where(known, row, 0).to(tl.int32)
        i = row // (16 * tiling_n)
        strips, fractals = tl.minimum(tiling_n, n1 - i * tiling_n), tl.minimum(tiling_k, k1 - j * tiling_k)
        to = out + token.to(tl.int64) * k
        sound = False
        if known:
            tl.debug_barrier()  # the piece before is done with the scratch memory
            start, bits, table, is_run, first, escaping, sync, symbols, sound = open_tile(
                weight, weight_bytes, index, i * k_index + j, strips, fractals, own
            )
            strip = row // 16 - i * tiling_n + lane
            present = lane < sound.to(tl.int32)
            rank = first_ranks(sync, strip, present, escaping)
            scale = tl.load(weight_scale + row)
            for column in range(0, fractals, 2):
                a, b, rank = read_pair(
                    start, bits, table, is_run, first, escaping, own, symbols, strip, present, column, fractals, rank
                )
                left = k - (j * tiling_k + column) * 32 - word // 16 * 4
                wanted = present[:, None] & (word % 16 == row % 16)
                at = tl.broadcast_to(to + (j * tiling_k + column) * 32 + word // 16 * 4, (STRIPS, FRACTAL_WORDS))
                for byte in tl.static_range(4):
                    in_a = ((a >> (8 * byte)) & 0xFF).to(tl.uint8).to(tl.int8, bitcast=True).to(tl.float32)
                    in_b = ((b >> (8 * byte)) & 0xFF).to(tl.uint8).to(tl.int8, bitcast=True).to(tl.float32)
                    tl.store(at + byte, in_a * scale, mask=wanted & (byte < left))
                    behind = (column + 1 < fractals) & (byte + 32 < left)
                    tl.store(at + 32 + byte, in_b * scale, mask=wanted & behind)
            sound = sound & (wrong_ranks(sync, strip, present, escaping, rank) == 0)
        if not sound:
            first_column = j * tiling_k * 32
            for column in range(first_column, tl.minimum(first_column + tiling_k * 32, k), FRACTAL_WORDS):
                entry = column + tl.arange(0, FRACTAL_WORDS)
                nothing = tl.full([FRACTAL_WORDS], float("nan"), tl.float32)
                tl.store(to + entry, nothing, mask=entry < tl.minimum(first_column + tiling_k * 32, k))


def look_up(ids: Tensor, matrix: Matrix, weight_scale: Tensor) -> Tensor:
    """Return float32 [count, k] of ids int64 [count], contiguous. Invalid ids or damaged bytes give not-a-number."""
    device = matrix.index.device
    rows = torch.empty((ids.numel(), matrix.k), dtype=torch.float32, device=device)
    work = ids.numel() * triton.cdiv(matrix.k, 32 * FRACTALS_A_TILE)
    count = programs(device, work)
    scratch = torch.empty(count * SCRATCH_BYTES.value, dtype=torch.uint8, device=device)
    _look_up[(count,)](
        ids,
        ids.numel(),
        matrix.weight,
        matrix.weight.numel(),
        matrix.index,
        matrix.index.numel(),
        matrix.info,
        matrix.n,
        matrix.k,
        weight_scale,
        scratch,
        rows,
        num_warps=TILE_WARPS,
        maxnreg=TILE_REGISTERS,
    )
    return rows
