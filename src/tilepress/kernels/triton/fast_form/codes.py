"""Codes of tiles in the fast form to int8 values, four a 32-bit word."""

from __future__ import annotations

import triton
import triton.language as tl

from tilepress.kernels.triton.planes import EACH_BYTE
from tilepress.kernels.triton.symbols import SIGNS

# Of a tile's row: 8 fractals of 4 pairs of words, a pair being 8 columns.
PAIRS = tl.constexpr(32)


@triton.jit
def is_sound(info, n, k):
    """Return whether info, int64 pointer, is that of a matrix n x k in the form for devices."""
    whole = (tl.load(info) == 8) & (tl.load(info + 1) == 8) & (tl.load(info + 4) == 0x54500004)
    return whole & (tl.load(info + 2) == k) & (tl.load(info + 3) == n)


@triton.jit
def read_entry(index, tile, weight_bytes, fractals):
    """Return (offset, width, low + 128, sound) of tiles by number, of `fractals` fractals each.

    Where the entry is damaged, sound is 0 and the rest that of a tile of width 0, of which nothing is read.
    """
    offset = tl.load(index + 2 * tile).to(tl.int64) * 64
    packed = tl.load(index + 2 * tile + 1)
    width = packed & 255
    low = (packed >> 8) + 128
    sound = (offset >= 0) & ((width == 0) | ((width >= 4) & (width <= 8))) & (low >= 0) & (low <= 255)
    sound = sound & (offset + 64 * width * fractals <= weight_bytes)
    return tl.where(sound, offset, 0), tl.where(sound, width, 0), tl.where(sound, low, 0), sound.to(tl.int32)


@triton.jit
def _codes(words, width, fractal, row, pair, wanted):
    """Return the codes, or for a width of 8 the values with their signs turned, of the pairs' two words each.

    words: uint32 pointer to the tile. fractal: number in the tile; row: in the fractal; pair: 0 to 3.
    """
    block = words + fractal * (16 * width) + row
    if width == 8:
        low = tl.load(block + pair * 32, mask=wanted, other=0) ^ SIGNS
        high = tl.load(block + pair * 32 + 16, mask=wanted, other=0) ^ SIGNS
    else:
        four = tl.load(block + pair * 16, mask=wanted & (width != 0), other=0)
        low, high = four & (15 * EACH_BYTE), (four >> 4) & (15 * EACH_BYTE)
        if (width & 2) != 0:
            two = tl.load(block + (4 + pair // 2) * 16, mask=wanted, other=0) >> (4 * (pair % 2))
            low |= (two & (3 * EACH_BYTE)) << 4
            high |= ((two >> 2) & (3 * EACH_BYTE)) << 4
        if (width & 1) != 0:
            one = tl.load(block + (width & 6) * 16, mask=wanted, other=0) >> (2 * pair)
            low |= (one & EACH_BYTE) << (width & 6)
            high |= ((one >> 1) & EACH_BYTE) << (width & 6)
    return low, high


@triton.jit
def read_words(words, width, low, fractal, row, pair, wanted):
    """Return (first, second): the values of columns 0 to 3 and 4 to 7 of each pair, as the bytes of uint32.

    low: low + 128 of the tile. Where not `wanted` values are low. With 128 added no byte passes 255, so that bytes are
    added as one word.
    """
    first, second = _codes(words, width, fractal, row, pair, wanted)
    each = tl.where(width == 8, 0, low).to(tl.uint32) * EACH_BYTE
    return (first + each) ^ SIGNS, (second + each) ^ SIGNS


@triton.jit
def to_bytes(words, ROWS: tl.constexpr, BYTES: tl.constexpr):
    """Turn uint32 [ROWS, BYTES / 4] into int8 [ROWS, BYTES]."""
    even = tl.join((words & 0xFF).to(tl.uint8), ((words >> 16) & 0xFF).to(tl.uint8))
    odd = tl.join(((words >> 8) & 0xFF).to(tl.uint8), (words >> 24).to(tl.uint8))
    return tl.join(even, odd).reshape(ROWS, BYTES).to(tl.int8, bitcast=True)
