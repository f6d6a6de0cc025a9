"""The product for a few tokens: every tile is decoded and multiplied at once, the int8 matrix is stored nowhere."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilepress.kernels.triton.activations import quantize
from tilepress.kernels.triton.decode import scratch_memory
from tilepress.kernels.triton.machine import TILE_REGISTERS, TILE_WARPS
from tilepress.kernels.triton.matrix import Matrix
from tilepress.kernels.triton.operands import Operands
from tilepress.kernels.triton.output import narrow, scale_sums
from tilepress.kernels.triton.strips import STRIPS, first_ranks, read_pair, wrong_ranks
from tilepress.kernels.triton.tile import SCRATCH_BYTES, open_tile, read_info

# Int8 tensor cores multiply by at least so many columns: fewer tokens cost as much.
MOST_TOKENS = 16


@triton.jit
def _to_matrix(words):
    """Turn uint32 [8, 128], fractals as read_pair returns them, into int8 [128, 32], one below the other."""
    even = tl.join((words & 0xFF).to(tl.uint8), ((words >> 16) & 0xFF).to(tl.uint8))
    odd = tl.join(((words >> 8) & 0xFF).to(tl.uint8), (words >> 24).to(tl.uint8))
    by_group = tl.join(even, odd).reshape(8, 8, 16, 4)
    return by_group.permute(0, 2, 1, 3).reshape(128, 32).to(tl.int8, bitcast=True)


@triton.jit
def _multiply_tiles(
    weight,
    weight_bytes,
    index,
    tiles,
    info,
    scratch,
    values,
    width,
    tokens,
    k,
    y,
    n,
    ratio,
    offset,
    input_offset,
    deq_scale,
    quant_bias,
    weight_sums,
    sums,
    arrived,
    damaged,
    OWN: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Add tile after tile to `sums`; the program that adds the last tile of a row of tiles writes its outputs.

    Sums of integers do not depend on the order. sums: int32 [tokens, n]; arrived, damaged: int32, an entry for each
    row of tiles; all of them 0.
    """
    tiling_n, tiling_k, n1, k1, k_index = read_info(info, n, k, tiles)
    own = scratch + tl.program_id(0) * SCRATCH_BYTES
    token = tl.arange(0, TOKENS)[None, :]
    in_strips = tl.arange(0, 16 * STRIPS)[:, None]
    column_in = tl.arange(0, 32)[:, None]
    if k_index == 0:  # info is damaged: nothing else writes y
        for top in range(tl.program_id(0) * 16 * STRIPS, n, tl.num_programs(0) * 16 * STRIPS):
            at = token * n + top + in_strips
            nothing = tl.full([16 * STRIPS, TOKENS], float("nan"), tl.float32)
            tl.store(y + at, nothing.to(y.dtype.element_ty), mask=(token < tokens) & (top + in_strips < n))
    for tile in range(tl.program_id(0), tl.where(k_index == 0, 0, tiles), tl.num_programs(0)):
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
            products = tl.zeros([16 * STRIPS, TOKENS], tl.int32)
            for column in range(0, fractals, 2):
                a, b, rank = read_pair(
                    start, bits, table, is_run, first, escaping, own, symbols, strip, present, column, fractals, rank
                )
                x = values + token * width + (j * tiling_k + column) * 32 + column_in
                products = tl.dot(_to_matrix(a), tl.load(x), products, out_dtype=tl.int32)
                there = (token >= 0) & (column + 1 < fractals)
                products = tl.dot(_to_matrix(b), tl.load(x + 32, mask=there, other=0), products, out_dtype=tl.int32)
            wrong += wrong_ranks(sync, strip, present, escaping, rank)
            row = (i * tiling_n + top) * 16 + in_strips
            to_add = (token < tokens) & (in_strips < 16 * (strips - top)) & (row < n)
            tl.atomic_add(sums + token * n + row, products, mask=to_add, sem="relaxed")
        if wrong > 0:
            tl.store(damaged + i, 1)
        tl.debug_barrier()  # all of the program's additions come before it arrives
        if tl.atomic_add(arrived + i, 1) == k_index - 1:
            is_damaged = tl.load(damaged + i, cache_modifier=".cg") != 0
            for top in range(0, strips, STRIPS):
                row = (i * tiling_n + top) * 16 + in_strips
                there = (token < tokens) & (in_strips < 16 * (strips - top)) & (row < n)
                whole = tl.load(sums + token * n + row, mask=there, other=0, cache_modifier=".cg")
                result = scale_sums(
                    whole, token, row, n, ratio, offset, input_offset, deq_scale, quant_bias, weight_sums,
                    token < tokens, OWN,
                )  # fmt: skip
                result = tl.where(is_damaged, float("nan"), result)
                tl.store(y + token * n + row, narrow(result, y.dtype.element_ty), mask=there)


def multiply(x: Tensor, operands: Operands, y: Tensor) -> None:
    """Compute y [tokens, n] from x [tokens, k], of at most MOST_TOKENS tokens. The weight is a Matrix."""
    tokens, n = y.shape
    strips = -(-n // 16)
    zeroed = torch.empty(tokens * n + 2 * strips, dtype=torch.int32, device=x.device)
    sums, arrived, damaged = zeroed.split([tokens * n, strips, strips])
    quantized = quantize(
        x,
        operands.input_scale,
        operands.input_offset,
        dynamic=operands.dynamic,
        rows=MOST_TOKENS,
        zeroed=zeroed,
    )
    matrix = operands.matrix
    assert isinstance(matrix, Matrix)
    scratch = scratch_memory(matrix)
    _multiply_tiles[(scratch.numel() // SCRATCH_BYTES.value,)](
        matrix.weight,
        matrix.weight.numel(),
        matrix.index,
        matrix.index.numel(),
        matrix.info,
        scratch,
        quantized.values,
        quantized.values.shape[1],
        tokens,
        x.shape[1],
        y,
        n,
        *operands.scaling(quantized),
        sums,
        arrived,
        damaged,
        OWN=operands.dynamic,
        TOKENS=MOST_TOKENS,
        num_warps=TILE_WARPS,
        maxnreg=TILE_REGISTERS,
        enable_fp_fusion=False,
    )
