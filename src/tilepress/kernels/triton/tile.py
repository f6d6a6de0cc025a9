"""Opening a tile: its index entry and header are read, its levels after the first decoded to scratch memory."""

from __future__ import annotations

import triton
import triton.language as tl

from tilepress.kernels.triton.planes import EACH_BYTE, count, escapes, unpack
from tilepress.kernels.triton.symbols import first_of_run, look_up, take

# Levels are decoded last one first, each with the symbols of the one after it, which take up to a whole tile's bytes:
# two buffers take turns.
SCRATCH_BYTES = tl.constexpr(2 * 32768)
LEVEL_WORDS = tl.constexpr(256)


@triton.jit
def read_info(info, n, k, tiles):
    """Return (tiling_n, tiling_k, n1, k1, k_index) from the five numbers in `info`, int64 pointer.

    n1, k1: fractals of the matrix, downwards and across. k_index: tiles across; 0 where info is damaged, or gives
    another matrix than n x k or another number of tiles than `tiles`.
    """
    tiling_k, tiling_n = tl.load(info), tl.load(info + 1)
    sound = (tl.load(info + 4) == 0x54500001) & (tl.load(info + 2) == k) & (tl.load(info + 3) == n)
    sound = sound & (tiling_k > 0) & (tiling_n > 0) & (tiling_k <= 64) & (tiling_n <= 64)
    sound = sound & (tiling_k * tiling_n <= 64)
    tiling_k, tiling_n = tl.where(sound, tiling_k, 1).to(tl.int32), tl.where(sound, tiling_n, 1).to(tl.int32)
    n1, k1 = (n + 15) // 16, (k + 31) // 32
    n_index, k_index = (n1 + tiling_n - 1) // tiling_n, (k1 + tiling_k - 1) // tiling_k
    sound = sound & (n_index.to(tl.int64) * k_index == tiles)
    return tiling_n, tiling_k, n1, k1, tl.where(sound, k_index, 0)


@triton.jit
def _table_size(nibble, terminal):
    size = (1 << tl.maximum(nibble - 1, 0)) - tl.where(terminal, 0, 1)
    return tl.where((nibble == 0) | (nibble == 9), 0, size)


@triton.jit
def _code_bytes(nibble, count):
    coded = tl.where(nibble == 9, (count + 15) // 16 * 16, 16 * (nibble - 1) * ((count + 127) // 128))
    return tl.where(nibble == 0, 0, coded)


@triton.jit
def _load_u16(start, at, wanted):
    low = tl.load(start + at, mask=wanted, other=0).to(tl.int32)
    return low | tl.load(start + at + 1, mask=wanted, other=0).to(tl.int32) << 8


@triton.jit
def _read_level(codes, table, width, terminal, symbols, below, below_count, out):
    """Decode the `symbols` symbols of a level after the first into `out`. Return how many escapes it has.

    codes, table: uint8 pointers. below: the next level's symbols, below_count of them.
    """
    taken = 0
    in_chunk = tl.arange(0, LEVEL_WORDS)
    for start in range(0, symbols, 4 * LEVEL_WORDS):
        word = start // 4 + in_chunk
        left = tl.minimum(tl.maximum(symbols - 4 * word, 0), 4)
        present = left > 0
        # Codes past the count may be anything.
        there = tl.where(left == 4, EACH_BYTE, EACH_BYTE & ((1 << (8 * (left % 4))) - 1)).to(tl.uint32)
        words = codes.to(tl.pointer_type(tl.uint32))
        if width == 8:
            decoded = tl.load(words + word, mask=present, other=0)
        else:
            block = words + word // 32 * 4 * width
            coded = unpack(block, width, word % 32, present, 16)
            escaping = escapes(coded, width) & there & tl.where(terminal, 0, EACH_BYTE).to(tl.uint32)
            decoded = look_up(coded, table, there ^ escaping)
            if not terminal:
                counts = count(escaping)
                rank = taken + tl.cumsum(counts) - counts
                decoded = take(decoded, escaping, rank, below, below_count)
                taken += tl.sum(counts)
        tl.store(out.to(tl.pointer_type(tl.uint32)) + word, decoded, mask=present)
    return taken


@triton.jit
def open_tile(weight, weight_bytes, index, tile, strips, fractals, scratch):
    """Read the header of tile number `tile`, and decode its levels after the first into `scratch`.

    weight: uint8 pointer to weight_bytes bytes. index: int64 pointer. strips, fractals: of the tile, downwards and
    across. scratch: uint8 pointer to SCRATCH_BYTES of this program's own, no longer in use: a barrier is needed between
    two tiles.

    Returns (start, width, table, is_run, first, escaping, sync, symbols, sound):
    start: uint8 pointer to the codes of level 0, of `width` bits. table: that of level 0. is_run, first: see
    first_of_run. escaping: whether level 0 has an escape. sync: uint8 pointer to its sync table. symbols: how many
    level 1 has, the first of them at `scratch`. sound: 0 where something is damaged; nothing of the tile may then be
    read.
    """
    entry = tl.load(index + tile)
    nibble0, nibble1 = (entry >> 48 & 15).to(tl.int32), (entry >> 52 & 15).to(tl.int32)
    nibble2, nibble3 = (entry >> 56 & 15).to(tl.int32), (entry >> 60 & 15).to(tl.int32)
    levels = (nibble0 > 0).to(tl.int32) + (nibble1 > 0) + (nibble2 > 0) + (nibble3 > 0)
    # All levels but the last have an escape: they are 1 to 7 bits wide, and their nibbles 2 to 8.
    sound = (nibble0 > 0) & (nibble0 <= 9) & (nibble1 <= 9) & (nibble2 <= 9) & (nibble3 <= 9)
    sound = sound & ((levels < 2) | ((nibble0 >= 2) & (nibble0 <= 8) & (nibble1 > 0)))
    sound = sound & ((levels < 3) | ((nibble1 >= 2) & (nibble1 <= 8) & (nibble2 > 0)))
    sound = sound & ((levels < 4) | ((nibble2 >= 2) & (nibble2 <= 8) & (nibble3 > 0)))
    sound = sound & ((entry & 63) == 0)

    # Offsets are multiples of 64, which the compiler has to know to load whole vectors.
    offset = (entry & ((1 << 48) - 1)) // 64 * 64
    size0, size1 = _table_size(nibble0, levels == 1), _table_size(nibble1, levels == 2)
    size2, size3 = _table_size(nibble2, levels == 3), _table_size(nibble3, levels == 4)
    width = tl.maximum(nibble0 - 1, 0)
    header = 64 * width * strips * fractals
    tables = header + tl.where(levels > 1, 2 * (strips + levels - 2), 0)
    codes1 = (tables + size0 + size1 + size2 + size3 + 15) // 16 * 16
    sound = sound & (offset + codes1 <= weight_bytes)

    start = weight + offset
    count1 = _load_u16(start, header + 2 * (strips - 1), sound & (levels > 1))
    count2 = _load_u16(start, header + 2 * strips, sound & (levels > 2))
    count3 = _load_u16(start, header + 2 * (strips + 1), sound & (levels > 3))
    sound = sound & (count1 <= 512 * strips * fractals) & (count2 <= count1) & (count3 <= count2)
    codes2 = codes1 + _code_bytes(nibble1, count1)
    codes3 = codes2 + _code_bytes(nibble2, count2)
    sound = sound & (offset + codes3 + _code_bytes(nibble3, count3) <= weight_bytes)
    count1, count2, count3 = count1 * sound, count2 * sound, count3 * sound

    table0 = start + tables
    table1 = table0 + size0
    table2 = table1 + size1
    other = scratch + SCRATCH_BYTES // 2
    _read_level(start + codes3, table2 + size2, nibble3 - 1, True, count3, other, 0, scratch)
    tl.debug_barrier()
    escapes2 = _read_level(start + codes2, table2, nibble2 - 1, levels == 3, count2, scratch, count3, other)
    tl.debug_barrier()
    escapes1 = _read_level(start + codes1, table1, nibble1 - 1, levels == 2, count1, other, count2, scratch)
    tl.debug_barrier()
    sound = sound & (escapes2 == count3) & (escapes1 == count2)
    is_run, first = first_of_run(table0, size0 * sound)
    return start, width, table0, is_run, first, levels > 1, start + header, count1, sound
