"""Rows and columns of compressed matrices are cut and joined as those of plain ones are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import make_matrix
from tilepress import codec
from tilepress.codec import joining
from tilepress.codec.coding import encode_tiled

A = make_matrix("gaussian", 300, 270, seed=1)
B = make_matrix("rows of different scale", 256, 270, seed=2)
COMPRESSED_A, COMPRESSED_B = codec.encode(A), codec.encode(B)


def assert_is_encoding_of(compressed, matrix):
    expected = codec.encode(np.ascontiguousarray(matrix))
    assert np.array_equal(compressed.weight, expected.weight)
    assert np.array_equal(compressed.index, expected.index)
    assert np.array_equal(compressed.info, expected.info)


@pytest.fixture
def no_encoding(monkeypatch):
    """Tiles must move as they are."""

    def refuse(*arguments):
        raise AssertionError("a tile was encoded")

    monkeypatch.setattr(joining, "encode_tiled", refuse)


@pytest.mark.usefixtures("no_encoding")
@pytest.mark.parametrize(
    "pieces",
    [
        [("b", 0, 256), ("a", 0, 300)],
        [("a", 128, 256), ("b", 128, 256), ("a", 0, 128)],
        [("a", 256, 300)],
        [("b", 0, 128), ("a", 5, 5), ("a", 256, 300)],
    ],
)
def test_rows_on_tile_borders_move_as_bytes(pieces):
    plain, compressed = {"a": A, "b": B}, {"a": COMPRESSED_A, "b": COMPRESSED_B}
    gathered = codec.gather_rows([(compressed[name], start, stop) for name, start, stop in pieces])
    codec.validate(gathered)
    expected = np.concatenate([plain[name][start:stop] for name, start, stop in pieces])
    assert np.array_equal(codec.decode(gathered), expected)
    assert_is_encoding_of(gathered, expected)


spans = st.lists(
    st.tuples(st.booleans(), st.integers(0, 256), st.integers(0, 256)).map(lambda t: (t[0], *sorted(t[1:]))),
    min_size=1,
    max_size=4,
).filter(lambda pieces: any(start < stop for _, start, stop in pieces))


@settings(max_examples=50, deadline=None)
@given(spans)
def test_any_rows_can_be_gathered(pieces):
    gathered = codec.gather_rows([(COMPRESSED_A if a else COMPRESSED_B, start, stop) for a, start, stop in pieces])
    assert_is_encoding_of(gathered, np.concatenate([(A if a else B)[start:stop] for a, start, stop in pieces]))


def test_a_whole_matrix_is_not_copied():
    assert codec.gather_rows([(COMPRESSED_A, 0, 300)]) is COMPRESSED_A
    assert codec.join_columns([COMPRESSED_A]) is COMPRESSED_A


@pytest.mark.usefixtures("no_encoding")
def test_columns_of_whole_tiles_move_as_bytes():
    parts = [make_matrix("gaussian", 300, k, seed=k) for k in (256, 512, 33)]
    assert_is_encoding_of(codec.join_columns([codec.encode(part) for part in parts]), np.concatenate(parts, axis=1))


def test_other_columns_can_be_joined():
    parts = [make_matrix("gaussian", 150, k, seed=k) for k in (100, 256, 7)]
    assert_is_encoding_of(codec.join_columns([codec.encode(part) for part in parts]), np.concatenate(parts, axis=1))


def test_sources_of_different_tilings():
    fine = encode_tiled(B, 2, 3, threads=1)
    assert_is_encoding_of(codec.gather_rows([(COMPRESSED_A, 0, 128), (fine, 32, 64)]), np.vstack([A[:128], B[32:64]]))
    assert_is_encoding_of(codec.join_columns([COMPRESSED_B, fine]), np.hstack([B, B]))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 301), (7, 6)])
def test_rows_that_do_not_exist(start, stop):
    with pytest.raises(ValueError, match=f"no rows {start} to {stop} in a matrix of 300 rows"):
        codec.gather_rows([(COMPRESSED_A, start, stop)])


def test_nothing_to_join():
    with pytest.raises(ValueError, match="no rows to gather"):
        codec.gather_rows([(COMPRESSED_A, 5, 5)])
    with pytest.raises(ValueError, match="no rows to gather"):
        codec.gather_rows([])
    with pytest.raises(ValueError, match="no columns to join"):
        codec.join_columns([])


def test_matrices_that_do_not_fit_together():
    other = codec.encode(np.zeros((10, 10), np.int8))
    with pytest.raises(ValueError, match="rows of 10 columns cannot stand below rows of 270"):
        codec.gather_rows([(COMPRESSED_A, 0, 10), (other, 0, 10)])
    with pytest.raises(ValueError, match="columns of 10 rows cannot stand beside columns of 300"):
        codec.join_columns([COMPRESSED_A, other])
