"""The product that the kernel is compared with computes what it says, and memory is read to its end."""

from __future__ import annotations

import numpy as np
import pytest

from tilepress import _native


@pytest.mark.parametrize("tokens", [0, 1, 3, 4, 8, 15, 16, 33])
@pytest.mark.parametrize(("n", "k"), [(16, 16), (48, 32), (272, 1040)])
def test_dense_int8_is_an_integer_product(n: int, k: int, tokens: int) -> None:
    rng = np.random.default_rng(n)
    matrix = rng.integers(-128, 128, (n, k)).astype(np.int8)
    x = rng.integers(-128, 128, (tokens, k)).astype(np.int8)
    y = _native.dense_int8(x, _native.pack_dense_int8(matrix), n, 2)
    assert np.array_equal(y, x.astype(np.int32) @ matrix.T.astype(np.int32))


def test_dense_int8_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(ValueError, match="17 x 16; rows and columns have to be multiples of 16"):
        _native.pack_dense_int8(np.zeros((17, 16), np.int8))
    with pytest.raises(ValueError, match="256 bytes, not 32 x 16"):
        _native.dense_int8(np.zeros((1, 16), np.int8), np.zeros(256, np.uint8), 32, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_reading_memory_sees_every_line(threads: int) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 63, 100_003, np.uint64)
    whole = words[: len(words) // 8 * 8]  # in lines of 64 bytes
    assert _native.read_memory(words.view(np.uint8), threads) == np.bitwise_xor.reduce(whole)
