"""The codec in NumPy, to be read beside docs/reference/bitstream.md. The native one gives the same bytes and errors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tilepress.codec.compressed import (
    BITSTREAM_V1,
    FRACTAL_COLUMNS,
    FRACTAL_ROWS,
    FRACTAL_SYMBOLS,
    MAX_TILE_FRACTALS,
    TILING,
    Compressed,
    Int8Array,
    make_info,
)
from tilepress.codec.layout import (
    Bytes,
    code_bytes,
    header_bytes,
    pack,
    round_up,
    table_size,
    tile_bytes,
    to_matrix,
    to_symbols,
    unpack,
)
from tilepress.errors import BitstreamError

# Encoder ------------------------------------------------------------------------------------------------------------


def _ranked(symbols: Int8Array) -> tuple[Int8Array, NDArray[np.int64]]:
    """Distinct values, often before rare, near zero before far, negative before positive; and how often each occurs."""
    values, counts = np.unique(symbols, return_counts=True)
    order = np.lexsort((values, np.abs(values.astype(int)), -counts))
    return values[order], counts[order]


def choose_widths(counts: NDArray[np.int64], r: int, c: int) -> tuple[int, ...]:
    """The widths of the smallest encoding of a tile whose ranked values occur `counts` times."""
    left = [*np.cumsum(counts[::-1])[::-1].tolist(), 0]  # [t]: symbols outside the first t ranked values
    best: tuple[int, ...] = (8,)
    best_bytes = FRACTAL_SYMBOLS * r * c
    for levels in range(1, 5):
        for escaping in product(range(1, 8), repeat=levels - 1):
            taken = np.cumsum([0, *((1 << b) - 1 for b in escaping)]).tolist()
            remaining = len(counts) - taken[-1]
            if remaining < 1:
                continue
            for terminal in ((remaining - 1).bit_length(), 8):
                widths = (*escaping, terminal)
                size = tile_bytes(widths, [left[t] for t in taken], r, c)
                if size < best_bytes:
                    best, best_bytes = widths, size
    return best


def _encode_tile(symbols: Int8Array, widths: tuple[int, ...], ranked: Int8Array, r: int, c: int) -> bytes:
    header, tables, codes_of_levels, level_0 = b"", b"", b"", b""
    for level, width in enumerate(widths):
        count, terminal = len(symbols), level + 1 == len(widths)
        if level > 1:
            header += count.to_bytes(2, "little")
        size = table_size(widths, level)
        if width == 8:
            codes, escaping = symbols.view(np.uint8), np.zeros(count, bool)
        else:
            own, ranked = np.sort(ranked[:size]), ranked[size:]
            escaping = ~np.isin(symbols, own)
            codes = np.searchsorted(own, symbols).astype(np.uint8)
            codes[escaping] = (1 << width) - 1
            tables += np.pad(own, (0, size - len(own)), mode="edge").tobytes()
        if level == 0:
            level_0 = codes.tobytes() if width == 8 else pack(codes, width, 64).tobytes() if width else b""
            if not terminal:
                header += escaping.reshape(r, -1).sum(axis=1).cumsum().astype("<u2").tobytes()
        elif width == 8:
            codes_of_levels += codes.tobytes().ljust(round_up(count, 16), b"\0")
        elif width > 0:
            codes_of_levels += pack(np.pad(codes, (0, -count % 128)), width, 16).tobytes()
        symbols = symbols[escaping]
    head = level_0 + header + tables
    tile = head.ljust(round_up(len(head), 16), b"\0") + codes_of_levels
    return tile.ljust(round_up(len(tile), 64), b"\0")


def encode(matrix: Int8Array, tiling_n: int = TILING, tiling_k: int = TILING) -> Compressed:
    """int8 matrix [n, k], n and k at least 1, to its smallest encoding."""
    n, k = matrix.shape
    empty = np.zeros(0, np.int8)
    plan = Compressed(empty, empty, make_info(n, k, tiling_n, tiling_k))
    padded = np.pad(matrix, ((0, -n % FRACTAL_ROWS), (0, -k % FRACTAL_COLUMNS)))
    height, width = FRACTAL_ROWS * tiling_n, FRACTAL_COLUMNS * tiling_k
    weight, entries = bytearray(), []
    for i, j, r, c in plan.tiles():
        symbols = to_symbols(padded[i * height :, j * width :][: r * FRACTAL_ROWS, : c * FRACTAL_COLUMNS])
        ranked, counts = _ranked(symbols)
        widths = choose_widths(counts, r, c)
        entries.append(len(weight) | sum(b + 1 << 48 + 4 * level for level, b in enumerate(widths)))
        weight += _encode_tile(symbols, widths, ranked, r, c)
    index = np.array(entries, "<u8").tobytes()
    return Compressed(np.frombuffer(weight, np.int8), np.frombuffer(index, np.int8), plan.info)


# Validator and decoder ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A parsed header. Positions are bytes of weight."""

    widths: tuple[int, ...]
    counts: list[int]
    sync: NDArray[np.int64]
    tables: list[Bytes]
    level_0: int
    header: int
    codes: int
    end: int


def _parse_tile(c: Compressed, entry: int, i: int, j: int, rows: int, columns: int, begin: int) -> Tile:
    def refuse(what: str) -> BitstreamError:
        return BitstreamError(f"tile ({i}, {j}): {what}")

    if entry & (1 << 48) - 1 != begin:
        raise refuse("the offset is not where the tile before ends")
    nibbles = [entry >> 48 + 4 * level & 15 for level in range(4)]
    levels = sum(nibble > 0 for nibble in nibbles)
    widths = tuple(nibble - 1 for nibble in nibbles[:levels])
    if max(nibbles) > 9:
        raise refuse("a level is wider than 8 bits")
    if levels == 0:
        raise refuse("no level at all")
    if min(widths) < 0:
        raise refuse("an unused level stands before a used one")
    if any(width in (0, 8) for width in widths[:-1]):
        raise refuse("a level with an escape has width 0 or 8")

    at = header = begin + 64 * widths[0] * rows * columns
    codes = begin + round_up(header - begin + header_bytes(widths, rows), 16)
    if codes > len(c.weight):
        raise refuse("the tile reaches past the end of weight")
    counts, sync = [FRACTAL_SYMBOLS * rows * columns], np.zeros(0, np.int64)
    weight = c.weight.view(np.uint8)
    if levels > 1:
        numbers = weight[header : header + 2 * (rows + levels - 2)].view("<u2").astype(np.int64)
        at += 2 * len(numbers)
        sync = numbers[:rows]
        steps = np.diff(sync, prepend=0)
        if steps.min() < 0:
            raise refuse("the sync table falls")
        if steps.max() > columns * FRACTAL_SYMBOLS:
            raise refuse("the sync table grows by more than the symbols of a strip")
        counts += numbers[rows - 1 :].tolist()
        if np.diff(counts).max() > 0:
            raise refuse("a level has more codes than the one before")
    tables = []
    for level in range(levels):
        size = table_size(widths, level)
        tables.append(weight[at : at + size])
        at += size
    end = begin + tile_bytes(widths, counts, rows, columns)
    if end > len(c.weight):
        raise refuse("the tile reaches past the end of weight")
    return Tile(widths, counts, sync, tables, begin, header, codes, end)


def _check_info(c: Compressed) -> None:
    tiling_k, tiling_n, k, n, version = c.info.tolist()
    if version != BITSTREAM_V1:
        raise BitstreamError(
            f"info[4] is {version}, not {BITSTREAM_V1}: the tensor is compressed for the Atlas card by the vendor's "
            "closed compressor, or damaged; compress it from the W8A8S directory instead"
        )
    if not (1 <= n < 2**31 and 1 <= k < 2**31):
        raise BitstreamError(f"info gives a matrix of {n} x {k}; both must be 1 to 2^31 - 1")
    if tiling_n < 1 or tiling_k < 1 or tiling_n * tiling_k > MAX_TILE_FRACTALS:
        raise BitstreamError(
            f"info gives tiles of {tiling_n} x {tiling_k} fractals; both must be at least 1, their product at most 64"
        )
    tiles = c.n_index * c.k_index
    if len(c.index) != 8 * tiles:
        raise BitstreamError(f"index has {len(c.index)} bytes, but a matrix of {n} x {k} has {tiles} tiles of 8")


def parse(c: Compressed) -> list[Tile]:
    """Checks info, index and every header. Raises BitstreamError at the first that is wrong."""
    _check_info(c)
    parsed: list[Tile] = []
    for entry, (i, j, rows, columns) in zip(c.entries().tolist(), c.tiles(), strict=True):
        parsed.append(_parse_tile(c, entry, i, j, rows, columns, parsed[-1].end if parsed else 0))
    if parsed[-1].end != len(c.weight):
        i, j = c.n_index - 1, c.k_index - 1
        raise BitstreamError(f"tile ({i}, {j}): the last tile ends before the end of weight")
    return parsed


def validate(c: Compressed) -> None:
    """Raises BitstreamError unless info, index and every tile's header are sound."""
    parse(c)


def _decode_tile(weight: Bytes, tile: Tile, i: int, j: int) -> Int8Array:
    levels, at = [], tile.codes
    for level, (width, count) in enumerate(zip(tile.widths, tile.counts, strict=True)):
        begin, V = (tile.level_0, 64) if level == 0 else (at, 16)
        size = width * count // 8 if level == 0 else code_bytes(width, count)
        data = weight[begin : begin + size]
        codes = data if width == 8 else unpack(data, width, V) if width else np.zeros(count, np.uint8)
        levels.append(codes[:count])
        at += size if level else 0

    below = np.zeros(0, np.uint8)
    for level in reversed(range(len(levels))):
        codes, width, terminal = levels[level], tile.widths[level], level + 1 == len(levels)
        if width == 8:
            below = codes
            continue
        values = np.append(tile.tables[level], np.uint8(0))[codes]
        if not terminal:
            escapes = codes == (1 << width) - 1
            if escapes.sum() != len(below):
                raise BitstreamError(
                    f"tile ({i}, {j}): level {level} has {escapes.sum()} escapes, "
                    f"but level {level + 1} has {len(below)} codes"
                )
            if level == 0 and (escapes.reshape(len(tile.sync), -1).sum(axis=1).cumsum() != tile.sync).any():
                raise BitstreamError(f"tile ({i}, {j}): the escapes of level 0 are not those of the sync table")
            values[escapes] = below
        below = values
    return below.view(np.int8)


def decode(c: Compressed) -> Int8Array:
    """Return the int8 matrix [n, k]. Raises BitstreamError for any damage that the bytes show."""
    parsed = parse(c)
    height, width = FRACTAL_ROWS * c.tiling_n, FRACTAL_COLUMNS * c.tiling_k
    padded = np.empty((c.n1 * FRACTAL_ROWS, c.k1 * FRACTAL_COLUMNS), np.int8)
    for tile, (i, j, r, columns) in zip(parsed, c.tiles(), strict=True):
        decoded = to_matrix(_decode_tile(c.weight.view(np.uint8), tile, i, j), r, columns)
        padded[i * height :, j * width :][: decoded.shape[0], : decoded.shape[1]] = decoded
    return padded[: c.n, : c.k].copy()
