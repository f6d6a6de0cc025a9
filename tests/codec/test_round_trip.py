"""What is compressed comes back, and the native codec and the reference agree byte for byte."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import DISTRIBUTIONS, assert_same, make_matrix, matrices, tilings
from tilepress import codec
from tilepress.codec import reference
from tilepress.codec.coding import encode_tiled

widths_of_tiles = st.tuples(
    st.lists(st.integers(1, 7), max_size=3), st.sampled_from(["narrow", "bytes"]), st.integers(0, 2**32 - 1)
)


@settings(max_examples=120, deadline=None)
@given(matrices)
def test_any_matrix_comes_back(matrix):
    compressed = codec.encode(matrix)
    codec.validate(compressed)
    assert compressed.shape == matrix.shape
    assert np.array_equal(codec.decode(compressed), matrix)


@settings(max_examples=40, deadline=None)
@given(matrices, tilings)
def test_native_and_reference_agree(matrix, tiling):
    native = encode_tiled(matrix, *tiling, threads=2)
    assert_same(native, reference.encode(matrix, *tiling))
    assert np.array_equal(codec.decode(native), matrix)
    assert np.array_equal(reference.decode(native), matrix)


@settings(max_examples=100, deadline=None)
@given(matrices, widths_of_tiles)
def test_decoders_read_encodings_that_ours_does_not_choose(matrix, choice):
    escaping, terminal, seed = choice

    def any_order(symbols):  # a poor ranking makes many escapes
        values, counts = np.unique(symbols, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(values))
        return values[order], counts[order]

    def given_widths(counts, r, c):
        widths, left = [], len(counts)
        for width in escaping:
            if left <= (1 << width) - 1:
                break
            widths.append(width)
            left -= (1 << width) - 1
        return (*widths, 8 if terminal == "bytes" else (left - 1).bit_length())

    with patch.object(reference, "_ranked", any_order), patch.object(reference, "choose_widths", given_widths):
        compressed = reference.encode(matrix)
    codec.validate(compressed)
    assert np.array_equal(reference.decode(compressed), matrix)
    assert np.array_equal(codec.decode(compressed), matrix)


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_bytes_do_not_depend_on_threads(kind):
    matrix = make_matrix(kind, 700, 1100)
    alone = codec.encode(matrix, threads=1)
    assert_same(codec.encode(matrix, threads=7), alone)
    assert_same(codec.encode(matrix), alone)
    assert np.array_equal(codec.decode(alone, threads=1), codec.decode(alone, threads=7))


@pytest.mark.parametrize(("n", "k"), [(2048, 4096), (2000, 4224), (1999, 4211)])
def test_matrices_larger_than_the_cache_come_back(n, k):
    matrix = make_matrix("gaussian", n, k)
    compressed = codec.encode(matrix)
    assert np.array_equal(codec.decode(compressed), matrix)
    for shift in (0, 1, 64):
        out = np.zeros(n * k + 64, np.int8)[shift : shift + n * k].reshape(n, k)
        assert np.array_equal(codec.decode(compressed, out=out, threads=2), matrix)


def test_decoding_to_an_array_of_the_callers():
    matrix = make_matrix("gaussian", 130, 70)
    frame = np.zeros((3, 130, 70), np.int8)
    assert codec.decode(codec.encode(matrix), out=frame[1]).base is frame
    assert np.array_equal(frame[1], matrix)
    assert not frame[0].any()
    assert not frame[2].any()


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((3, 2), np.int8),
        np.zeros(6, np.int8),
        np.zeros((2, 3), np.uint8),
        np.zeros((3, 2), np.int8).T,
        np.zeros((2, 6), np.int8)[:, ::2],
        read_only(np.zeros((2, 3), np.int8)),
    ],
)
def test_an_array_that_cannot_take_the_matrix_is_refused(out):
    with pytest.raises(ValueError, match=r"int8 \[2, 3\] is needed, C-contiguous and writable"):
        codec.decode(codec.encode(np.ones((2, 3), np.int8)), out=out)


def test_any_memory_layout_is_read():
    matrix = make_matrix("gaussian", 130, 70)
    frozen = matrix.copy()
    frozen.flags.writeable = False
    assert_same(codec.encode(frozen), codec.encode(matrix))
    assert_same(codec.encode(np.asfortranarray(matrix)), codec.encode(matrix))
    assert_same(codec.encode(matrix[::2, ::-1]), codec.encode(matrix[::2, ::-1].copy()))


@pytest.mark.parametrize(
    "matrix", [np.zeros((2, 3), np.float32), np.zeros(3, np.int8), np.zeros((0, 3), np.int8), np.zeros((3, 0), np.int8)]
)
def test_what_is_no_int8_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match=r"int8 \[n, k\] is needed"):
        codec.encode(matrix)


def test_a_constant_tile_takes_64_bytes():
    assert len(codec.encode(np.full((128, 256), -7, np.int8)).weight) == 64


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 32), (17, 33), (200, 300)])
def test_weight_never_exceeds_the_padded_matrix(n, k):
    compressed = codec.encode(make_matrix("incompressible", n, k))
    assert len(compressed.weight) <= compressed.n1 * compressed.k1 * 512


@pytest.mark.parametrize("sigma", [1, 2, 4, 8])
def test_size_is_close_to_the_entropy(sigma):
    """Weights as quantization leaves them: 0.5 % are from a distribution eight times as wide."""
    rng = np.random.default_rng(0)
    scale = np.where(rng.random((1024, 1024)) < 0.005, 8 * sigma, sigma)
    matrix = np.clip(np.rint(rng.normal(0, scale)), -128, 127).astype(np.int8)
    bits = 8 * codec.encode(matrix).nbytes / matrix.size
    assert bits < 1.1 * codec.entropy(matrix)


def test_entropy_of_known_distributions():
    assert codec.entropy(np.zeros((3, 5), np.int8)) == 0
    assert codec.entropy(np.array([[-1, 0], [1, 2]], np.int8)) == 2
    assert codec.entropy(np.arange(-128, 128).astype(np.int8).reshape(16, 16)) == 8
