"""Shared by the reference encoder and decoder: the order of symbols, planes, and the lengths of a tile's parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilepress.codec.compressed import FRACTAL_COLUMNS, FRACTAL_ROWS, Int8Array

Bytes = NDArray[np.uint8]


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def to_symbols(tile: Int8Array) -> Int8Array:
    """int8 [16 r, 32 c] to symbols [512 r c]: fractals row by row, in each [8 groups][16 rows][4 columns]."""
    r, c = tile.shape[0] // FRACTAL_ROWS, tile.shape[1] // FRACTAL_COLUMNS
    return tile.reshape(r, FRACTAL_ROWS, c, 8, 4).transpose(0, 2, 3, 1, 4).ravel()


def to_matrix(symbols: Int8Array, r: int, c: int) -> Int8Array:
    """The inverse of to_symbols."""
    fractals = symbols.reshape(r, c, 8, FRACTAL_ROWS, 4)
    return fractals.transpose(0, 3, 1, 2, 4).reshape(r * FRACTAL_ROWS, c * FRACTAL_COLUMNS)


def _plane_widths(width: int) -> list[int]:
    return [bits for bits in (4, 2, 1) if width & bits]


def pack(codes: Bytes, width: int, V: int) -> Bytes:
    """Codes [multiple of 8 V] of 1 to 7 bits to blocks of width * V bytes."""
    blocks, planes, shift = codes.reshape(-1, 8 * V), [], 0
    for bits in _plane_widths(width):
        field = (blocks >> shift & (1 << bits) - 1).reshape(len(blocks), bits, 8 // bits, V)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
        planes.append((field << shifts).sum(axis=2, dtype=np.uint8).reshape(len(blocks), bits * V))
        shift += bits
    return np.concatenate(planes, axis=1).ravel()


def unpack(data: Bytes, width: int, V: int) -> Bytes:
    """The inverse of pack."""
    blocks = data.reshape(-1, width * V)
    codes, at, shift = np.zeros((len(blocks), 8 * V), np.uint8), 0, 0
    for bits in _plane_widths(width):
        plane = blocks[:, at : at + bits * V].reshape(len(blocks), bits, 1, V)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
        codes |= (plane >> shifts & (1 << bits) - 1).reshape(len(blocks), 8 * V) << shift
        at, shift = at + bits * V, shift + bits
    return codes.ravel()


def table_size(widths: tuple[int, ...], level: int) -> int:
    if widths[level] == 8:
        return 0
    return (1 << widths[level]) - (level + 1 < len(widths))


def code_bytes(width: int, count: int) -> int:
    """Bytes of the codes of a level after level 0."""
    return round_up(count, 16) if width == 8 else 16 * width * -(-count // 128)


def header_bytes(widths: tuple[int, ...], r: int) -> int:
    """Sync table, counts and tables, without padding."""
    numbers = r + len(widths) - 2 if len(widths) > 1 else 0
    return 2 * numbers + sum(table_size(widths, level) for level in range(len(widths)))


def tile_bytes(widths: tuple[int, ...], counts: list[int], r: int, c: int) -> int:
    head = round_up(64 * widths[0] * r * c + header_bytes(widths, r), 16)
    return round_up(head + sum(map(code_bytes, widths[1:], counts[1:])), 64)
