"""From planes of bits to codes, four codes a 32-bit word (docs/reference/bitstream.md, "Planes")."""

from __future__ import annotations

import triton
import triton.language as tl

EACH_BYTE = tl.constexpr(0x01010101)


@triton.jit
def unpack(block, width, word, wanted, V: tl.constexpr):
    """Return codes 4 word to 4 word + 3 of a block of 8 V, as the bytes of a uint32; 0 where not wanted.

    block: uint32 pointers to where the word's block begins. width: 0 to 7, a scalar that differs from tile to tile:
    there is a load for each of three planes, which is masked off where the plane does not exist.
    """
    lanes: tl.constexpr = V // 4
    vector, lane = word // lanes, word % lanes
    four = tl.load(block + vector // 2 * lanes + lane, mask=wanted & ((width & 4) != 0), other=0)
    two = tl.load(block + ((width & 4) + vector // 4) * lanes + lane, mask=wanted & ((width & 2) != 0), other=0)
    one = tl.load(block + (width & 6) * lanes + lane, mask=wanted & ((width & 1) != 0), other=0)
    low = (four >> (4 * (vector % 2))) & (15 * EACH_BYTE)
    middle = (two >> (2 * (vector % 4))) & (3 * EACH_BYTE)
    high = (one >> vector) & EACH_BYTE
    return low | (middle << (width & 4)) | (high << (width & 6))


@triton.jit
def escapes(codes, width):
    """1 in each byte whose code, of width 1 to 7, is all ones."""
    return ((codes + EACH_BYTE) >> width) & EACH_BYTE


@triton.jit
def count(flags):
    """Return how many of a word's bytes, each 0 or 1, are 1, as int32."""
    return ((flags * EACH_BYTE) >> 24).to(tl.int32)
