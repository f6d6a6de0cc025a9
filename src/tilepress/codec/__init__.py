"""int8 matrices compressed without loss, tile by tile (docs/reference/bitstream.md)."""

from tilepress.codec.coding import check_index, core_count, decode, encode, entropy, validate
from tilepress.codec.compressed import BITSTREAM_V1, TILE_COLUMNS, TILE_ROWS, Compressed
from tilepress.codec.joining import Gathered, gather_columns, gather_rows

__all__ = [
    "BITSTREAM_V1",
    "TILE_COLUMNS",
    "TILE_ROWS",
    "Compressed",
    "Gathered",
    "check_index",
    "core_count",
    "decode",
    "encode",
    "entropy",
    "gather_columns",
    "gather_rows",
    "validate",
]
