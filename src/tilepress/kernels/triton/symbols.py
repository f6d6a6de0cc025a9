"""From codes to symbols: a level's table, and the next level's symbols where a code is the escape."""

from __future__ import annotations

import triton
import triton.language as tl

from tilepress.kernels.triton.planes import EACH_BYTE

SIGNS = tl.constexpr(0x80808080)


@triton.jit
def look_up(codes, table, flags):
    """Return table[code] for each byte whose flag is 1, and 0 for the others. table: uint8 pointer."""
    symbols = tl.zeros_like(codes)
    for byte in tl.static_range(4):
        code = (codes >> (8 * byte)) & 255
        value = tl.load(table + code, mask=((flags >> (8 * byte)) & 1) != 0, other=0)
        symbols |= value.to(tl.uint32) << (8 * byte)
    return symbols


@triton.jit
def take(symbols, flags, rank, below, count):
    """Return symbols; each byte whose flag is 1, itself 0, is replaced by the next one of `below` from rank on.

    below: uint8 pointer, at a multiple of 4, to `count` symbols of the next level; no word after them is read.
    """
    words = below.to(tl.pointer_type(tl.uint32))
    at = rank >> 2
    low = tl.load(words + at, mask=(flags != 0) & (rank < count), other=0)
    high = tl.load(words + at + 1, mask=(flags != 0) & (4 * at + 4 < count), other=0)
    next_four = ((high.to(tl.uint64) << 32 | low) >> (8 * (rank & 3)).to(tl.uint64)).to(tl.uint32)
    # A byte takes the symbol behind those of the flagged bytes before it. What bytes that are not flagged get is cut
    # off, so that one shift serves the first two bytes, and one the last two.
    first_two = next_four << (((flags << 3) & 8) ^ 8)
    last_two = next_four << (24 - (((flags * EACH_BYTE) >> 13) & 24))
    return symbols | (((first_two & 0xFFFF) | (last_two & 0xFFFF0000)) & (flags * 255))


@triton.jit
def first_of_run(table, size):
    """Return (whether each of the table's `size` values, 1 to 128, is one more than the one before, first + 128)."""
    entry = tl.arange(0, 128)
    values = tl.load(table + entry, mask=entry < size, other=0).to(tl.int8, bitcast=True).to(tl.int32)
    first = tl.load(table, mask=size > 0, other=0).to(tl.int8, bitcast=True).to(tl.int32)
    breaks = tl.sum(((values != first + entry) & (entry < size)).to(tl.int32))
    return (breaks == 0) & (size > 0), first + 128


@triton.jit
def add_first(codes, first, flags):
    """Return first - 128 + code, which a table that is a run gives, for each byte whose flag is 1; 0 for the others.

    With 128 added no byte passes 255, so that bytes are added as one word.
    """
    wanted = flags * 255
    return (((codes & wanted) + first.to(tl.uint32) * EACH_BYTE) ^ SIGNS) & wanted
