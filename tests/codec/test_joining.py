"""Rows and columns of compressed matrices are cut and joined as those of plain ones are."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import make_matrix, tilings
from tilepress import codec
from tilepress.codec import joining
from tilepress.codec.coding import encode_tiled
from tilepress.errors import BitstreamError

A = make_matrix("gaussian", 300, 270, seed=1)
B = make_matrix("rows of different scale", 256, 270, seed=2)
WIDE = make_matrix("sparse", 140, 700, seed=3)
PLAIN = {"a": A, "b": B, "a upright": A.T, "b upright": B.T, "wide": WIDE}
COMPRESSED = {name: codec.encode(np.ascontiguousarray(matrix)) for name, matrix in PLAIN.items()}


def assert_is_encoding_of(gathered, matrix):
    expected = codec.encode(np.ascontiguousarray(matrix))
    codec.validate(gathered.weight)
    assert np.array_equal(gathered.weight.weight, expected.weight)
    assert np.array_equal(gathered.weight.index, expected.index)
    assert np.array_equal(gathered.weight.info, expected.info)
    assert gathered.tiles == len(expected.entries())


def gather_rows(pieces):
    gathered = codec.gather_rows([(COMPRESSED[name], start, stop) for name, start, stop in pieces])
    return gathered, np.concatenate([PLAIN[name][start:stop] for name, start, stop in pieces])


def gather_columns(pieces):
    gathered = codec.gather_columns([(COMPRESSED[name], start, stop) for name, start, stop in pieces])
    return gathered, np.concatenate([PLAIN[name][:, start:stop] for name, start, stop in pieces], axis=1)


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
    gathered, expected = gather_rows(pieces)
    assert gathered.encoded == 0
    assert_is_encoding_of(gathered, expected)


@pytest.mark.usefixtures("no_encoding")
@pytest.mark.parametrize(
    "pieces",
    [
        [("wide", 0, 512), ("wide", 0, 700)],
        [("wide", 256, 512), ("wide", 0, 256), ("wide", 512, 700)],
        [("wide", 512, 700)],
        [("wide", 0, 256), ("wide", 9, 9), ("wide", 512, 700)],
    ],
)
def test_columns_on_tile_borders_move_as_bytes(pieces):
    gathered, expected = gather_columns(pieces)
    assert gathered.encoded == 0
    assert_is_encoding_of(gathered, expected)


@pytest.mark.parametrize(
    ("pieces", "encoded"),
    [
        ([("a", 0, 200)], 2),  # the cut goes through the second row of tiles, which are two across
        ([("a", 0, 44), ("a", 128, 256)], 4),  # all of the result is shifted
        ([("a", 0, 128), ("a", 130, 258)], 2),
        ([("a", 0, 300), ("b", 0, 212), ("b", 128, 256)], 4),  # the first two and the last row of tiles move
    ],
)
def test_only_tiles_that_a_cut_goes_through_are_encoded(pieces, encoded):
    gathered, expected = gather_rows(pieces)
    assert gathered.encoded == encoded
    assert_is_encoding_of(gathered, expected)


def test_only_columns_of_tiles_that_a_cut_goes_through_are_encoded():
    gathered, expected = gather_columns([("wide", 256, 612)])
    assert (gathered.encoded, gathered.tiles) == (2, 4)
    assert_is_encoding_of(gathered, expected)


def spans(names, size):
    span = st.tuples(st.sampled_from(names), st.integers(0, size), st.integers(0, size))
    pieces = st.lists(span.map(lambda t: (t[0], *sorted(t[1:]))), min_size=1, max_size=4)
    return pieces.filter(lambda pieces: any(start < stop for _, start, stop in pieces))


@settings(max_examples=50, deadline=None)
@given(spans(["a", "b"], 256))
def test_any_rows_can_be_gathered(pieces):
    assert_is_encoding_of(*gather_rows(pieces))


@settings(max_examples=50, deadline=None)
@given(spans(["a upright", "b upright"], 256))
def test_any_columns_can_be_gathered(pieces):
    assert_is_encoding_of(*gather_columns(pieces))


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from([0, 1]))
def test_parts_of_a_matrix_give_any_range_of_it(data, axis):
    """What tensor parallelism asks for: a range that goes through some parts of any sizes, whatever their tiling."""
    matrix = WIDE if axis == 1 else WIDE.T
    size, tiling = matrix.shape[axis], data.draw(tilings)
    borders = sorted({0, size, *data.draw(st.lists(st.integers(1, size - 1), max_size=3))})
    start, stop = sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True)))
    pieces = []
    for first, last in pairwise(borders):
        part = np.ascontiguousarray(np.split(matrix, [first, last], axis=axis)[1])
        if (low := max(start, first)) < (high := min(stop, last)):
            pieces.append((encode_tiled(part, *tiling, None), low - first, high - first))
    gathered = (codec.gather_rows, codec.gather_columns)[axis](pieces, threads=1)
    expected = np.ascontiguousarray(np.split(matrix, [start, stop], axis=axis)[1])
    again = encode_tiled(expected, *tiling, None)
    assert np.array_equal(codec.decode(gathered.weight), expected)
    assert np.array_equal(gathered.weight.weight, again.weight)
    assert np.array_equal(gathered.weight.index, again.index)
    assert 0 <= gathered.encoded <= gathered.tiles


def test_a_whole_matrix_is_not_copied():
    whole = COMPRESSED["a"]
    for gathered in (codec.gather_rows([(whole, 0, 300)]), codec.gather_columns([(whole, 0, 270)])):
        assert gathered.weight is whole
        assert (gathered.encoded, gathered.tiles) == (0, 6)


def test_sources_of_different_tilings():
    fine, a, b = encode_tiled(B, 2, 3, threads=1), COMPRESSED["a"], COMPRESSED["b"]
    rows = codec.gather_rows([(a, 0, 128), (fine, 32, 64)])
    assert rows.encoded == 2
    assert_is_encoding_of(rows, np.vstack([A[:128], B[32:64]]))
    assert_is_encoding_of(codec.gather_columns([(b, 0, 270), (fine, 0, 270)]), np.hstack([B, B]))


def test_damage_is_found_where_a_tile_has_to_be_decoded():
    whole = COMPRESSED["a"]
    damaged = codec.Compressed(np.full_like(whole.weight, -1), whole.index, whole.info)
    codec.check_index(damaged)
    moved = codec.gather_rows([(damaged, 0, 128)])  # as bytes: the damage is found where the tile is used
    with pytest.raises(BitstreamError, match=r"tile \(0, 0\)"):
        codec.validate(moved.weight)
    for gather in (codec.gather_rows, codec.gather_columns):
        with pytest.raises(BitstreamError, match=r"tile \(0, 0\)"):
            gather([(damaged, 0, 100)])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 301), (7, 6)])
def test_rows_and_columns_that_do_not_exist(start, stop):
    with pytest.raises(ValueError, match=f"no rows {start} to {stop} in a matrix of 300 rows"):
        codec.gather_rows([(COMPRESSED["a"], start, stop)])
    with pytest.raises(ValueError, match=f"no columns {start} to {stop} in a matrix of 300 columns"):
        codec.gather_columns([(COMPRESSED["a upright"], start, stop)])


@pytest.mark.parametrize(("gather", "what"), [(codec.gather_rows, "rows"), (codec.gather_columns, "columns")])
def test_nothing_to_gather(gather, what):
    for pieces in ([], [(COMPRESSED["a"], 5, 5)]):
        with pytest.raises(ValueError, match=f"no {what} to gather"):
            gather(pieces)


def test_matrices_that_do_not_fit_together():
    a, other = COMPRESSED["a"], codec.encode(np.zeros((10, 10), np.int8))
    with pytest.raises(ValueError, match="rows of 10 columns cannot be put to rows of 270"):
        codec.gather_rows([(a, 0, 10), (other, 0, 10)])
    with pytest.raises(ValueError, match="columns of 10 rows cannot be put to columns of 300"):
        codec.gather_columns([(a, 0, 10), (other, 0, 10)])
