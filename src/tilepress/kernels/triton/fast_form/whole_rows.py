"""Rows of a matrix in the fast form as int8: for panels that are multiplied, and for lookups."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilepress.kernels.triton.fast_form.codes import PAIRS, is_sound, read_entry, read_words
from tilepress.kernels.triton.fast_form.form import FastMatrix

STRIP_ROWS = 16
STRIP_WARPS = 4
# Patches of a row at a time: for a strip, and for a row alone.
OF_STRIP, OF_ROW = 32, 256
COLUMNS = 1024


@triton.jit
def _decode(weight, weight_bytes, index, tiles, patches, info, n, k, row, present, out, EACH: tl.constexpr):
    """Decode rows of one strip. Return how many of their tiles and patches are damaged.

    row: int32 [rows], less than n. present: which of them count; the others equal one that does. out: uint8 pointers
    [rows, 1] to where each one's values go, at multiples of 4.
    """
    k_index = (k + 255) // 256
    row_of_tiles = tl.max(row) // 128
    strips = tl.minimum((n + 15) // 16 - row_of_tiles * 8, 8)
    pair = tl.arange(0, PAIRS)[None, :]
    wrong = 0
    for j in range(0, k_index):
        fractals = tl.minimum((k + 31) // 32 - 8 * j, 8)
        offset, bits, low, sound = read_entry(index, row_of_tiles * k_index + j, weight_bytes, strips * fractals)
        wrong += 1 - sound
        wanted = (pair // 4 < fractals) & (row[:, None] >= 0)
        fractal = row[:, None] % 128 // 16 * fractals + pair // 4
        words = (weight + offset).to(tl.pointer_type(tl.uint32))
        a, b = read_words(words, bits, low, fractal, row[:, None] % 16, pair % 4, wanted)
        to = out.to(tl.pointer_type(tl.uint32)) + 64 * j + 2 * pair
        tl.store(to, a, mask=wanted)
        tl.store(to + 1, b, mask=wanted)
    tl.debug_barrier()  # patches change what was stored
    starts = index + 2 * tiles
    begin = tl.minimum(tl.maximum(tl.load(starts + row), 0), patches)
    end = tl.minimum(tl.maximum(tl.load(starts + row + 1), begin), patches)
    begin, end = begin[:, None], tl.where(present, end, begin)[:, None]
    for at in range(0, tl.max(end - begin), EACH):
        mine = begin + at + tl.arange(0, EACH)[None, :]
        patch = tl.load(starts + n + 1 + mine, mask=mine < end, other=256)
        column = patch >> 9
        there = (mine < end) & (column >= 0) & (column < k)
        wrong += tl.sum(((mine < end) & (there == 0)).to(tl.int32))
        decoded = tl.load(out + column, mask=there, other=0).to(tl.int32)
        tl.store(out + column, (decoded + (patch & 511) - 256).to(tl.uint8), mask=there)
    return wrong


@triton.jit
def _decode_strips(
    weight, weight_bytes, index, tiles, patches, info, n, k, out, damaged, first_row, rows, width, ROWS: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    """Program s decodes rows first_row + ROWS s, ... into out [rows, width]; the last row stands for missing ones."""
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present, at = at < rows, tl.minimum(at, rows - 1)
    wrong = 1
    if is_sound(info, n, k):
        to = out + at.to(tl.int64)[:, None] * width
        wrong = _decode(weight, weight_bytes, index, tiles, patches, info, n, k, first_row + at, present, to, EACH)
    if wrong > 0:
        tl.store(damaged + first_row // ROWS + tl.program_id(0), 1)


@triton.jit
def _look_up_rows(
    ids, weight, weight_bytes, index, tiles, patches, info, n, k, weight_scale, decoded, width, out,
    EACH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program t fills out [t, k] with the row of token t times its scale, by way of decoded, uint8 [count, width]."""
    row = tl.load(ids + tl.program_id(0))
    known = (row >= 0) & (row < n) & is_sound(info, n, k)
    own = decoded + tl.program_id(0).to(tl.int64) * width
    out += tl.program_id(0).to(tl.int64) * k
    wrong = 1
    scale = 0.0
    if known:
        scale = tl.load(weight_scale + row)
        one = row.to(tl.int32) + tl.arange(0, 1)
        to = own + tl.arange(0, 1)[:, None]
        wrong = _decode(weight, weight_bytes, index, tiles, patches, info, n, k, one, one >= 0, to, EACH)
        tl.debug_barrier()
    for at in range(0, k, COLUMNS):
        column = at + tl.arange(0, COLUMNS)
        value = tl.load(own + column, mask=(column < k) & (wrong == 0), other=0).to(tl.int8, bitcast=True)
        tl.store(out + column, tl.where(wrong == 0, value.to(tl.float32) * scale, float("nan")), mask=column < k)


def decode_rows(matrix: FastMatrix, out: Tensor, damaged: Tensor, first_row: int) -> None:
    """Decode rows first_row, ... of the matrix into out, int8 [rows, width], as `decode.decode_rows` does."""
    _decode_strips[(triton.cdiv(out.shape[0], STRIP_ROWS),)](
        *matrix.arguments,
        matrix.n,
        matrix.k,
        out.view(torch.uint8),
        damaged,
        first_row,
        *out.shape,
        ROWS=STRIP_ROWS,
        EACH=OF_STRIP,
        num_warps=STRIP_WARPS,
    )


def look_up(ids: Tensor, matrix: FastMatrix, weight_scale: Tensor) -> Tensor:
    """Return float32 [count, k] of ids int64 [count], contiguous. Invalid ids or damaged bytes give not-a-number."""
    width = triton.cdiv(matrix.k, 32) * 32
    rows = torch.empty((ids.numel(), matrix.k), dtype=torch.float32, device=ids.device)
    decoded = torch.empty((ids.numel(), width), dtype=torch.uint8, device=ids.device)
    _look_up_rows[(ids.numel(),)](
        ids,
        *matrix.arguments,
        matrix.n,
        matrix.k,
        weight_scale,
        decoded,
        width,
        rows,
        EACH=OF_ROW,
        COLUMNS=COLUMNS,
        num_warps=1,
    )
    return rows
