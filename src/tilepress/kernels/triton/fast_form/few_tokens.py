"""The product for a few tokens: a program has 64 rows, and a part of their tiles and patches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilepress.kernels.triton.activations import quantize
from tilepress.kernels.triton.fast_form.codes import PAIRS, is_sound, read_entry, read_words, to_bytes
from tilepress.kernels.triton.fast_form.form import FastMatrix
from tilepress.kernels.triton.machine import at_once
from tilepress.kernels.triton.operands import Operands
from tilepress.kernels.triton.output import narrow, scale_sums

# Int8 tensor cores multiply by at least so many columns: fewer tokens cost as much.
MOST_TOKENS = 16
ROWS = 64
WARPS = 4
REGISTERS = 128
PROGRAMS_A_MULTIPROCESSOR = 4
# What a program that finds damage adds to the count of those that have arrived.
DAMAGE = tl.constexpr(1 << 16)


@triton.jit
def _tiles(
    weight, weight_bytes, index, values, width, k, n, first, last, k_index, row,
    ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Return (sums int32 [ROWS, TOKENS] over tiles `first` to `last` - 1 of the rows, how many are damaged)."""
    strip, in_fractal = row % 128 // 16, row % 16
    row_of_tiles = tl.program_id(0) * ROWS // 128
    strips = tl.minimum((n + 15) // 16 - 8 * row_of_tiles, 8)
    pair = tl.arange(0, PAIRS)[None, :]
    byte = tl.arange(0, 4 * PAIRS)[:, None]
    x = values + tl.arange(0, TOKENS)[None, :] * width + byte // 4 * 8 + byte % 4
    sums = tl.zeros([ROWS, TOKENS], tl.int32)
    wrong = 0
    for j in range(first, last):
        fractals = tl.minimum((k + 31) // 32 - 8 * j, 8)
        offset, bits, low, sound = read_entry(index, row_of_tiles * k_index + j, weight_bytes, strips * fractals)
        wrong += 1 - sound
        # What is read of neighbours, where the tile has fewer strips or columns, is left out by zeros in x, or of rows
        # that are not stored.
        fractal = tl.minimum(strip, strips - 1) * fractals + tl.minimum(pair // 4, fractals - 1)
        words = (weight + offset).to(tl.pointer_type(tl.uint32))
        a, b = read_words(words, bits, low, fractal, in_fractal, pair % 4, True)
        sums = tl.dot(to_bytes(a, ROWS, 4 * PAIRS), tl.load(x + 256 * j), sums, out_dtype=tl.int32)
        sums = tl.dot(to_bytes(b, ROWS, 4 * PAIRS), tl.load(x + 256 * j + 4), sums, out_dtype=tl.int32)
    return sums, wrong


@triton.jit
def _patches(
    starts, patches, count, values, width, k, tokens, row, n, part, parts,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Return (sums int32 [ROWS, TOKENS] of one part of the rows' patches, how many are damaged)."""
    begin = tl.minimum(tl.maximum(tl.load(starts + row, mask=row < n, other=0), 0), count)
    end = tl.minimum(tl.maximum(tl.load(starts + row + 1, mask=row < n, other=0), begin), count)
    token = tl.arange(0, TOKENS)[None, None, :]
    lane = tl.arange(0, EACH)[None, :]
    sums = tl.zeros([ROWS, TOKENS], tl.int32)
    wrong = tl.zeros([ROWS, EACH], tl.int32)
    for at in range(part * EACH, tl.max(end - begin), parts * EACH):
        mine = begin[:, None] + at + lane
        patch = tl.load(patches + mine, mask=mine < end[:, None], other=256)
        column, difference = patch >> 9, (patch & 511) - 256
        there = (column >= 0) & (column < k)
        wrong += 1 - there.to(tl.int32)
        x = values + token * width + tl.where(there, column, 0)[:, :, None]
        taken = tl.load(x, mask=(token < tokens) & (difference != 0)[:, :, None], other=0).to(tl.int32)
        sums += tl.sum(taken * difference[:, :, None], axis=1)
    return sums, tl.sum(wrong)


@triton.jit
def _multiply_rows(
    weight, weight_bytes, index, tiles, patches, info, values, width, tokens, k, y, n, ratio, offset, input_offset,
    deq_scale, quant_bias, weight_sums, partial, arrived,
    OWN: tl.constexpr, TOKENS: tl.constexpr, PATCHED: tl.constexpr, EACH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Program (r, p) adds up part p of rows ROWS r, ...; of several parts the one that comes last adds up all.

    partial: int32 [parts, tokens, n]. arrived: int32, an entry for each r, all of them 0. PATCHED: tokens that patches
    are multiplied by at once, EACH of a row's.
    """
    part, parts = tl.program_id(1), tl.num_programs(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sound = is_sound(info, n, k)
    k_index = (k + 255) // 256
    starts = index + 2 * tiles
    first, last = part * k_index // parts, (part + 1) * k_index // parts
    sums, wrong = _tiles(
        weight, weight_bytes, index, values, width, k, n, first, tl.where(sound, last, first), k_index, row[:, None],
        ROWS, TOKENS,
    )  # fmt: skip
    of_patches, wrong_patches = _patches(
        starts, starts + n + 1, tl.where(sound, patches, 0), values, width, k, tokens, row, n, part, parts,
        ROWS, PATCHED, EACH,
    )  # fmt: skip
    token = tl.arange(0, TOKENS)[None, :]
    sums += tl.where(token < PATCHED, of_patches, 0)
    wrong = ((wrong + wrong_patches > 0) | (sound == 0)).to(tl.int32)

    row = row[:, None]
    there = (token < tokens) & (row < n)
    last_one = True
    if parts > 1:
        tl.store(partial + (part * tokens + token) * n + row, sums, mask=there)
        tl.debug_barrier()  # all of the program's sums are stored before it arrives
        before = tl.atomic_add(arrived + tl.program_id(0), 1 + wrong * DAMAGE)
        last_one = before % DAMAGE == parts - 1
        wrong += before // DAMAGE
        if last_one:
            sums = tl.zeros([ROWS, TOKENS], tl.int32)
            for other in range(parts):
                sums += tl.load(partial + (other * tokens + token) * n + row, mask=there, other=0, cache_modifier=".cg")
    if last_one:
        result = scale_sums(
            sums, token, row, n, ratio, offset, input_offset, deq_scale, quant_bias, weight_sums, token < tokens, OWN
        )
        result = tl.where(wrong > 0, float("nan"), result)
        tl.store(y + token * n + row, narrow(result, y.dtype.element_ty), mask=there)


def multiply(x: Tensor, operands: Operands, y: Tensor) -> None:
    """Compute y [tokens, n] from x [tokens, k], of at most MOST_TOKENS tokens. The matrix is a FastMatrix."""
    matrix = operands.matrix
    assert isinstance(matrix, FastMatrix)
    tokens, n = y.shape
    blocks = triton.cdiv(n, ROWS)
    parts = max(1, min(matrix.k_index, at_once(x.device, PROGRAMS_A_MULTIPROCESSOR) // blocks))
    partial = torch.empty((parts if parts > 1 else 0, tokens, n), dtype=torch.int32, device=x.device)
    arrived = torch.empty(blocks, dtype=torch.int32, device=x.device)
    quantized = quantize(
        x,
        operands.input_scale,
        operands.input_offset,
        dynamic=operands.dynamic,
        rows=MOST_TOKENS,
        zeroed=arrived,
    )
    _multiply_rows[(blocks, parts)](
        *matrix.arguments,
        quantized.values,
        quantized.values.shape[1],
        tokens,
        x.shape[1],
        y,
        n,
        *operands.scaling(quantized),
        partial,
        arrived,
        OWN=operands.dynamic,
        TOKENS=MOST_TOKENS,
        # A patch takes a load for each token: one alone is not paid for sixteen times.
        PATCHED=1 if tokens == 1 else MOST_TOKENS,
        EACH=4 if tokens == 1 else 2,
        ROWS=ROWS,
        num_warps=WARPS,
        maxnreg=REGISTERS,
        enable_fp_fusion=False,
    )
