"""int8 matrices compressed without loss, tile by tile (docs/bitstream.md)."""

from tilepress.codec.coding import check_index, core_count, decode, encode, entropy, validate
from tilepress.codec.compressed import BITSTREAM_V1, Compressed
from tilepress.codec.joining import gather_rows, join_columns

__all__ = [
    "BITSTREAM_V1",
    "Compressed",
    "check_index",
    "core_count",
    "decode",
    "encode",
    "entropy",
    "gather_rows",
    "join_columns",
    "validate",
]
