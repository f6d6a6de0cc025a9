"""int8 matrices compressed without loss: in tiles that kernels read (docs/reference/bitstream.md), or in the smaller
entropy-coded form, for storage (docs/reference/bitstream-v2.md)."""

from tilepress.codec.coding import check_index, core_count, decode, encode, encode_resident, entropy, validate
from tilepress.codec.compressed import BITSTREAM_V1, RESIDENT_FORM, TILE_COLUMNS, TILE_ROWS, Compressed
from tilepress.codec.entropy_coding import (
    BITSTREAM_V2,
    EntropyCoded,
    check_entropy,
    decode_entropy,
    encode_entropy,
)
from tilepress.codec.joining import Gathered, gather_columns, gather_rows

# The codings of a compressed weight: tiles, from which kernels compute, and the smaller entropy-coded form.
TILES, ENTROPY = "tiles", "entropy"
CODINGS = (TILES, ENTROPY)
# Bytes of tiles for one byte of the entropy-coded form of the same weights, at most, from 2.5 to 5 bits.
TILES_FOR_ENTROPY = 1.12
# Bytes of the resident form for one byte of tiles, at most, from 3 bits on: SmolLM2's linears of 3.0, 3.5 and 4.0
# entropy-coded bits take 4.25, 4.79 and 5.17.
RESIDENT_FOR_TILES = 1.35


def resident(stored: int, coding: str | None, *, fast: bool = False) -> int:
    """Return the bytes in memory, at most, of weights that take `stored` bytes in files of that coding.

    They are tiles there, or in the form of `encode_resident` where `fast`.
    """
    tiles = stored * TILES_FOR_ENTROPY if coding == ENTROPY else stored
    return round(tiles * RESIDENT_FOR_TILES if fast else tiles)


__all__ = [
    "BITSTREAM_V1",
    "BITSTREAM_V2",
    "CODINGS",
    "ENTROPY",
    "RESIDENT_FORM",
    "TILES",
    "TILES_FOR_ENTROPY",
    "TILE_COLUMNS",
    "TILE_ROWS",
    "Compressed",
    "EntropyCoded",
    "Gathered",
    "check_entropy",
    "check_index",
    "core_count",
    "decode",
    "decode_entropy",
    "encode",
    "encode_entropy",
    "encode_resident",
    "entropy",
    "gather_columns",
    "gather_rows",
    "resident",
    "validate",
]
