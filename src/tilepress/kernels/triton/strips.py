"""Decoding level 0 of a tile: eight strips at a time, two fractals of each, and a warp for a fractal."""

from __future__ import annotations

import triton
import triton.language as tl

from tilepress.kernels.triton.planes import EACH_BYTE, count, escapes, unpack
from tilepress.kernels.triton.symbols import add_first, look_up, take

STRIPS = tl.constexpr(8)
FRACTAL_WORDS = tl.constexpr(128)


@triton.jit
def first_ranks(sync, strip, present, escaping):
    """Return where in level 1 each strip's escapes begin. strip: int32 [8]; present: which of them the tile has."""
    at = sync + 2 * (strip - 1)
    wanted = present & (strip > 0) & escaping
    return tl.load(at, mask=wanted, other=0).to(tl.int32) | tl.load(at + 1, mask=wanted, other=0).to(tl.int32) << 8


@triton.jit
def _codes(start, width, fractal, wanted):
    """Return codes, or symbols for a width of 8, of one fractal of each strip. fractal: int32 [8, 1], its number."""
    word = tl.arange(0, FRACTAL_WORDS)[None, :]
    words = start.to(tl.pointer_type(tl.uint32))
    if width == 8:
        codes = tl.load(words + fractal * FRACTAL_WORDS + word, mask=wanted & (word >= 0), other=0)
    else:
        codes = unpack(words + fractal * (16 * width), width, word, wanted & (word >= 0), 64)
    return codes


@triton.jit
def _known(codes, width, table, is_run, first, flags):
    """Return the symbols whose flag is 1, from their codes."""
    if width == 8:
        symbols = codes
    elif is_run:
        symbols = add_first(codes, first, flags)
    else:
        symbols = look_up(codes, table, flags)
    return symbols


@triton.jit
def read_pair(start, width, table, is_run, first, escaping, below, symbols, strip, present, column, fractals, rank):
    """Read fractals `column` and `column + 1` of eight strips. Return their symbols, and the ranks after them.

    Returns (uint32 [8, 128], uint32 [8, 128], int32 [8]). A fractal's 128 words are its 8 groups of 16 rows, the bytes
    of a word four neighbouring columns; missing fractals are 0. strip: int32 [8]; present: which of them the tile has.
    below: pointer to level 1's `symbols` symbols; rank: int32 [8], how many of them the columns before have taken. The
    rest is as open_tile returns it.
    """
    here = present[:, None]
    there = here & (column + 1 < fractals)
    fractal = strip[:, None] * fractals + column
    codes_a, codes_b = _codes(start, width, fractal, here), _codes(start, width, fractal + 1, there)
    all_a, all_b = tl.where(here, EACH_BYTE, 0).to(tl.uint32), tl.where(there, EACH_BYTE, 0).to(tl.uint32)
    if escaping:
        flags_a, flags_b = escapes(codes_a, width) & all_a, escapes(codes_b, width) & all_b
        counts_a, counts_b = count(flags_a), count(flags_b)
        # A fractal has up to 512 escapes: one sum gives the ranks of both fractals, in 16 bits each.
        counts = counts_a | counts_b << 16
        before = tl.cumsum(counts, axis=1) - counts
        total = tl.sum(counts, axis=1)
        rank_a = rank[:, None] + (before & 0xFFFF)
        rank_b = rank[:, None] + (total & 0xFFFF)[:, None] + (before >> 16)
        known_a = _known(codes_a, width, table, is_run, first, all_a ^ flags_a)
        known_b = _known(codes_b, width, table, is_run, first, all_b ^ flags_b)
        words_a = take(known_a, flags_a, rank_a, below, symbols)
        words_b = take(known_b, flags_b, rank_b, below, symbols)
        rank += (total & 0xFFFF) + (total >> 16)
    else:
        words_a = _known(codes_a, width, table, is_run, first, all_a + tl.zeros_like(codes_a))
        words_b = _known(codes_b, width, table, is_run, first, all_b + tl.zeros_like(codes_b))
    return words_a, words_b, rank


@triton.jit
def wrong_ranks(sync, strip, present, escaping, rank):
    """Return how many strips do not have as many escapes as the sync table says. rank: after their last fractal."""
    at = sync + 2 * strip
    wanted = present & escaping
    said = tl.load(at, mask=wanted, other=0).to(tl.int32) | tl.load(at + 1, mask=wanted, other=0).to(tl.int32) << 8
    return tl.sum((wanted & (rank != said)).to(tl.int32))
