"""Re-sharding of compressed matrices: whole tiles move as bytes, and tiles that a cut goes through are encoded anew.

The result has the bytes that `encode` gives for the plain matrix, as long as `encode` made the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilepress.codec.coding import encode_tiled
from tilepress.codec.compressed import Compressed
from tilepress.codec.tiles import Run, Tiles, assemble

_ROWS, _COLUMNS = 0, 1

# Rows or columns [start, stop) of a compressed matrix.
Piece = tuple[Compressed, int, int]
_Span = tuple[Tiles, int, int]


@dataclass(frozen=True)
class Gathered:
    """A matrix put together from pieces of others. encoded: number of its tiles that were encoded anew."""

    weight: Compressed
    encoded: int = 0

    @property
    def tiles(self) -> int:
        """Number of tiles of the matrix."""
        return self.weight.n_index * self.weight.k_index


def gather_rows(pieces: Sequence[Piece], *, threads: int | None = None) -> Gathered:
    """Stack rows [start, stop) of each piece (compressed, start, stop), all of the same k.

    A row of tiles moves as bytes where one piece holds it whole; other rows of tiles are decoded and encoded. A single
    piece that is a whole matrix is returned as it is. The result has the tiling of the first piece. threads: threads of
    the codec, all cores if None.
    The matrices must have passed `check_index`. Raises ValueError for rows that do not exist, for unequal k and for no
    rows at all; BitstreamError for damage in tiles that have to be decoded.
    """
    return _gather(pieces, _ROWS, threads)


def gather_columns(pieces: Sequence[Piece], *, threads: int | None = None) -> Gathered:
    """Put columns [start, stop) of each piece side by side, all of the same n; else as `gather_rows`."""
    return _gather(pieces, _COLUMNS, threads)


def _gather(pieces: Sequence[Piece], axis: int, threads: int | None) -> Gathered:
    what, other = ("rows", "columns") if axis == _ROWS else ("columns", "rows")
    for c, start, stop in pieces:
        if not 0 <= start <= stop <= c.shape[axis]:
            raise ValueError(f"no {what} {start} to {stop} in a matrix of {c.shape[axis]} {what}")
        if c.shape[1 - axis] != pieces[0][0].shape[1 - axis]:
            raise ValueError(
                f"{what} of {c.shape[1 - axis]} {other} cannot be put to {what} of {pieces[0][0].shape[1 - axis]}"
            )
    size = sum(stop - start for _, start, stop in pieces)
    if size == 0:
        raise ValueError(f"no {what} to gather")
    first = pieces[0][0]
    if len(pieces) == 1 and size == first.shape[axis]:
        return Gathered(first)
    spans = [(Tiles(c), start, stop) for c, start, stop in pieces]
    step = (spans[0][0].height, spans[0][0].width)[axis]
    lines, encoded = [], 0
    for begin in range(0, size, step):
        inside = _between(spans, begin, min(begin + step, size))
        line = _moved(inside, first, axis)
        if line is None:
            line = _encoded(inside, first, axis, threads)
            encoded += sum(len(run.entries) for run in line)
        lines.append(line)
    # Columns of tiles are one run for each row of tiles; the index wants row by row.
    ordered = lines if axis == _ROWS else zip(*lines, strict=True)
    n, k = (size, first.k) if axis == _ROWS else (first.n, size)
    return Gathered(assemble((run for line in ordered for run in line), n, k, first), encoded)


def _between(spans: Sequence[_Span], begin: int, end: int) -> list[_Span]:
    """Return the spans that rows or columns [begin, end) of all `spans`, put together, come from."""
    found, before = [], 0
    for tiles, start, stop in spans:
        low, high = max(start, start + begin - before), min(stop, start + end - before)
        if low < high:
            found.append((tiles, low, high))
        before += stop - start
    return found


def _moved(spans: Sequence[_Span], like: Compressed, axis: int) -> list[Run] | None:
    """Return the row of tiles that `spans` cover exactly, as one run, or the column, as a run a row; else None."""
    tiles, start, stop = spans[0]
    c, step = tiles.matrix, (tiles.height, tiles.width)[axis]
    whole = len(spans) == 1 and start % step == 0 and (stop == start + step or stop == c.shape[axis])
    if not whole or _tiling(c) != _tiling(like):
        return None
    return _line(tiles, start // step, axis)


def _encoded(spans: Sequence[_Span], like: Compressed, axis: int, threads: int | None) -> list[Run]:
    """Return a row or column of tiles in the same form, encoded anew from the decoded `spans`."""
    plain = [
        tiles.decoded((start, stop), (0, tiles.matrix.k), threads)
        if axis == _ROWS
        else tiles.decoded((0, tiles.matrix.n), (start, stop), threads)
        for tiles, start, stop in spans
    ]
    return _line(Tiles(encode_tiled(np.concatenate(plain, axis=axis), *_tiling(like), threads)), 0, axis)


def _line(tiles: Tiles, at: int, axis: int) -> list[Run]:
    if axis == _ROWS:
        return [tiles.run(at, 0, tiles.matrix.k_index)]
    return [tiles.run(i, at, at + 1) for i in range(tiles.matrix.n_index)]


def _tiling(c: Compressed) -> tuple[int, int]:
    return c.tiling_n, c.tiling_k
