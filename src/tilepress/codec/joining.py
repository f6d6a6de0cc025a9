"""Re-sharding: whole tiles of compressed matrices move as bytes, and what cuts through tiles is encoded anew.

The result is the very one that `encode` gives for the plain matrix, as long as the sources are `encode`'s own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilepress.codec.coding import decode, encode_tiled
from tilepress.codec.compressed import FRACTAL_COLUMNS, FRACTAL_ROWS, Compressed, Int8Array, make_info

_OFFSET_BITS = np.uint64(48)

# Tiles that follow one another: their bytes, and their index entries with offsets counted from the first of them.
_Run = tuple[Int8Array, NDArray[np.uint64]]


def gather_rows(sources: Sequence[tuple[Compressed, int, int]]) -> Compressed:
    """Stacks rows [start, stop) of each source (compressed, start, stop), all of the same k.

    A row of tiles moves as bytes where it is a whole one on both sides; the others are decoded and encoded.
    Sources must have passed `check_index`. Raises ValueError for rows that do not exist and for unequal k,
    BitstreamError for damage in tiles that have to be decoded.
    """
    for c, start, stop in sources:
        if not 0 <= start <= stop <= c.n:
            raise ValueError(f"no rows {start} to {stop} in a matrix of {c.n} rows")
        if c.k != sources[0][0].k:
            raise ValueError(f"rows of {c.k} columns cannot stand below rows of {sources[0][0].k}")
    n = sum(stop - start for _, start, stop in sources)
    if n == 0:
        raise ValueError("no rows to gather")
    first = sources[0][0]
    if len(sources) == 1 and n == first.n:
        return first
    height = _tile_height(first)
    runs = [_tile_row(_spans(sources, top, min(top + height, n)), first) for top in range(0, n, height)]
    return _assemble(runs, n, first.k, first)


def join_columns(parts: Sequence[Compressed]) -> Compressed:
    """Stands matrices of the same n side by side.

    Tiles move as bytes if all parts but the last are whole tiles wide; else everything is decoded and encoded.
    Parts must have passed `check_index`. Raises ValueError for unequal n or no parts, BitstreamError for damage in
    tiles that have to be decoded.
    """
    if not parts:
        raise ValueError("no columns to join")
    first = parts[0]
    for part in parts:
        if part.n != first.n:
            raise ValueError(f"columns of {part.n} rows cannot stand beside columns of {first.n}")
    if len(parts) == 1:
        return first
    width = FRACTAL_COLUMNS * first.tiling_k
    if any(_tiling(part) != _tiling(first) for part in parts) or any(part.k % width for part in parts[:-1]):
        return encode_tiled(np.concatenate([decode(part) for part in parts], axis=1), *_tiling(first), None)
    runs = [_run(part, i, i + 1) for i in range(first.n_index) for part in parts]
    return _assemble(runs, first.n, sum(part.k for part in parts), first)


def _tiling(c: Compressed) -> tuple[int, int]:
    return c.tiling_n, c.tiling_k


def _tile_height(c: Compressed) -> int:
    return FRACTAL_ROWS * c.tiling_n


def _run(c: Compressed, first: int, last: int) -> _Run:
    """Rows of tiles [first, last)."""
    entries = c.entries()
    ends = np.append(entries & ((np.uint64(1) << _OFFSET_BITS) - np.uint64(1)), np.uint64(len(c.weight)))
    begin, end = ends[first * c.k_index], ends[last * c.k_index]
    return c.weight[int(begin) : int(end)], entries[first * c.k_index : last * c.k_index] - begin


def _assemble(runs: Sequence[_Run], n: int, k: int, like: Compressed) -> Compressed:
    """A matrix [n, k] of all its tiles in index order, tiled as `like`."""
    offsets = np.cumsum([0, *(len(weight) for weight, _ in runs[:-1])]).astype(np.uint64)
    entries = np.concatenate([own + offset for (_, own), offset in zip(runs, offsets, strict=True)])
    weight = np.concatenate([weight for weight, _ in runs])
    return Compressed(weight, np.frombuffer(entries.astype("<u8").tobytes(), np.int8), make_info(n, k, *_tiling(like)))


def _spans(sources: Sequence[tuple[Compressed, int, int]], top: int, bottom: int) -> list[tuple[Compressed, int, int]]:
    """The parts of `sources` that rows [top, bottom) of their stack come from."""
    spans, above = [], 0
    for c, start, stop in sources:
        begin, end = max(start, start + top - above), min(stop, start + bottom - above)
        if begin < end:
            spans.append((c, begin, end))
        above += stop - start
    return spans


def _tile_row(spans: Sequence[tuple[Compressed, int, int]], like: Compressed) -> _Run:
    """One row of tiles that holds the rows of `spans`."""
    c, start, stop = spans[0]
    height = _tile_height(like)
    if len(spans) == 1 and _tiling(c) == _tiling(like) and start % height == 0 and (stop % height == 0 or stop == c.n):
        return _run(c, start // height, start // height + 1)
    rows = np.concatenate([_decode_rows(*span) for span in spans])
    return _run(encode_tiled(rows, *_tiling(like), None), 0, 1)


def _decode_rows(c: Compressed, start: int, stop: int) -> Int8Array:
    """Rows [start, stop) as int8, of which only the tiles concerned are decoded."""
    height = _tile_height(c)
    first, last = start // height, -(-stop // height)
    tiles = _assemble([_run(c, first, last)], min(c.n, last * height) - first * height, c.k, c)
    return decode(tiles)[start - first * height : stop - first * height]
