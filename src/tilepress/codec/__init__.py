"""int8 matrices compressed without loss: in tiles that kernels read (docs/reference/bitstream.md), or in the smaller
entropy-coded form, for storage (docs/reference/bitstream-v2.md)."""

from tilepress.codec.coding import check_index, core_count, decode, encode, entropy, validate
from tilepress.codec.compressed import BITSTREAM_V1, TILE_COLUMNS, TILE_ROWS, Compressed
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


def resident(stored: int, coding: str | None) -> int:
    """Return the bytes of tiles in memory, at most, of weights that take `stored` bytes in files of that coding."""
    return round(stored * TILES_FOR_ENTROPY) if coding == ENTROPY else stored


__all__ = [
    "BITSTREAM_V1",
    "BITSTREAM_V2",
    "CODINGS",
    "ENTROPY",
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
    "entropy",
    "gather_columns",
    "gather_rows",
    "resident",
    "validate",
]
