"""The entropy-coded form of an int8 matrix: smaller than tiles, for storage and download, but nothing computes from it.

The module is not called `entropy`: that is a function of the package.
"""

from __future__ import annotations

import numpy as np

from tilepress import _native
from tilepress.codec.coding import core_count, matrix_to_fill, matrix_to_read
from tilepress.codec.compressed import CodedMatrix, Int8Array
from tilepress.errors import BitstreamError

BITSTREAM_V2 = 0x54500002
LANES = 32


class EntropyCoded(CodedMatrix):
    """An int8 matrix [n, k] in the entropy-coded form (docs/reference/bitstream-v2.md).

    weight: int8 [x], the head and the blocks. index: int8 [8 * blocks], little-endian 64-bit offsets of the blocks.
    info: int64 [5], (32, rows of a block, k, n, version). `check_entropy` checks more than the types.
    """


def encode_entropy(matrix: Int8Array, threads: int | None = None) -> EntropyCoded:
    """Code an int8 matrix [n, k], n and k at least 1, without loss.

    The bytes depend on the matrix alone, not on `threads` (default: all cores of this process) nor on the processor.
    Raises ValueError for another dtype or shape.
    """
    weight, index, rows = _native.encode_entropy(matrix_to_read(matrix), threads or core_count())
    n, k = matrix.shape
    return EntropyCoded(weight, index, np.array([LANES, rows, k, n, BITSTREAM_V2], np.int64))


def decode_entropy(coded: EntropyCoded, out: Int8Array | None = None, threads: int | None = None) -> Int8Array:
    """Return the int8 matrix [n, k], written to `out` if that is given: int8 [n, k], C-contiguous and writable.

    Raises ValueError for an `out` that does not fit. Raises BitstreamError for any damage that the bytes show; the
    contents of `out` are then undefined.
    """
    check_entropy(coded)
    try:
        out = matrix_to_fill(coded.shape, out)
    except MemoryError:
        raise BitstreamError(f"info gives a matrix of {coded.n} x {coded.k}, more than memory holds") from None
    _native.decode_entropy(coded.weight, coded.index, coded.info, out, threads or core_count())
    return out


def check_entropy(coded: EntropyCoded) -> None:
    """Check info, index, the head and the headers of all blocks, whose codes are not read.

    Raises BitstreamError that names what is wrong first. A matrix that passes is no larger than 2^31 - 1 both ways, but
    may still be far larger than its bytes: a constant row takes none.
    """
    _native.check_entropy(coded.weight, coded.index, coded.info)
