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

__all__ = [
    "BITSTREAM_V1",
    "BITSTREAM_V2",
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
    "validate",
]
