"""The native codec: int8 matrix to tiles and back."""

from __future__ import annotations

import os

import numpy as np

from tilepress import _native
from tilepress.codec.compressed import RESIDENT_FORM, TILING, Compressed, Int8Array, make_info


def encode(matrix: Int8Array, *, threads: int | None = None) -> Compressed:
    """Compress an int8 matrix [n, k], n and k at least 1, without loss.

    The bytes depend on the matrix alone, not on `threads` (default: all cores of this process).
    Raises ValueError for another dtype or shape.
    """
    return encode_tiled(matrix, TILING, TILING, threads)


def encode_tiled(matrix: Int8Array, tiling_n: int, tiling_k: int, threads: int | None) -> Compressed:
    """`encode` to tiles of tiling_n x tiling_k fractals."""
    weight, index = _native.encode(matrix_to_read(matrix), tiling_n, tiling_k, threads or core_count())
    n, k = matrix.shape
    return Compressed(weight, index, make_info(n, k, tiling_n, tiling_k))


def encode_resident(matrix: Int8Array, *, threads: int | None = None) -> Compressed:
    """Return an int8 matrix [n, k] in the form that kernels read fastest where arithmetic is the bound.

    It is for memory, not for files. The codes of a tile have one width, in most tiles 4 bits, and stand for a run of
    values; what lies outside the run are patches: a list of positions and values. Kernels place no escapes, `decode`
    and the operators take it as they take tiles, with the same results. The bytes depend on the matrix alone.

    Raises ValueError for another dtype or shape.
    """
    weight, index = _native.encode_resident(matrix_to_read(matrix), TILING, TILING, threads or core_count())
    n, k = matrix.shape
    return Compressed(weight, index, make_info(n, k, version=RESIDENT_FORM))


def matrix_to_read(matrix: Int8Array) -> Int8Array:
    """Return an int8 matrix [n, k], C-contiguous. Raises ValueError for another dtype or shape."""
    if matrix.dtype != np.int8 or matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"cannot compress {matrix.dtype} {list(matrix.shape)}: int8 [n, k] is needed, both at least 1")
    return np.ascontiguousarray(matrix)


def decode(c: Compressed, *, out: Int8Array | None = None, threads: int | None = None) -> Int8Array:
    """Return the int8 matrix [n, k], written to `out` if that is given: int8 [n, k], C-contiguous and writable.

    A new array costs page faults: for 64 MB they take longer than decoding. The best `out` is one that decode has made:
    it begins at a cache line, so that whole lines of a large matrix are written past the caches.
    Raises ValueError for an `out` that does not fit. Raises BitstreamError for any damage that the bytes show; the
    contents of `out` are then undefined.
    """
    validate(c)
    out = matrix_to_fill(c.shape, out)
    _native.decode(c.weight, c.index, c.info, out, threads or core_count())
    return out


def matrix_to_fill(shape: tuple[int, int], out: Int8Array | None) -> Int8Array:
    """Return `out`, or a new int8 array of that shape. Raises ValueError for an `out` that does not fit."""
    if out is None:
        return _new_matrix(*shape)
    if out.dtype != np.int8 or out.shape != shape or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"cannot decode to {out.dtype} {list(out.shape)}: int8 {list(shape)} is needed, C-contiguous and writable"
        )
    return out


def _new_matrix(n: int, k: int) -> Int8Array:
    """Return an int8 array [n, k] that begins at a cache line; NumPy's own arrays need not."""
    line = 64
    buffer = np.empty(n * k + line - 1, np.int8)
    begin = -buffer.ctypes.data % line
    return buffer[begin : begin + n * k].reshape(n, k)


def check_index(c: Compressed) -> None:
    """Check `c` without touching its tiles: its info, and that the offsets in its index rise within weight.

    Raises BitstreamError that names the first wrong tile. Damage inside tiles is found where they are used: kernels and
    `decode` check each header before they read the tile.
    """
    _native.check_index(c.weight, c.index, c.info)


def validate(c: Compressed) -> None:
    """Check info, index and all tile headers. Raises BitstreamError that names the first wrong tile.

    Decoders then stay inside their buffers, whatever the tiles' codes are; only `decode` checks the codes.
    """
    _native.validate(c.weight, c.index, c.info)


def entropy(matrix: Int8Array) -> float:
    """Return the order-0 entropy in bits a value: what a perfect code with one table of frequencies would need."""
    counts = np.zeros(256, np.int64)
    for row in matrix:  # all at once, bincount would take eight times the matrix's memory
        counts += np.bincount(row.view(np.uint8), minlength=256)
    shares = counts[counts > 0] / matrix.size
    return float(-(shares * np.log2(shares)).sum())


def core_count() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
