"""The resident form: what is brought to it comes back, its bytes are few, and damage is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from int8_matrices import make_matrix, matrices
from tilepress import codec
from tilepress.codec import RESIDENT_FORM, Compressed
from tilepress.errors import BitstreamError


@settings(max_examples=120, deadline=None)
@given(matrices)
def test_any_matrix_comes_back(matrix: np.ndarray) -> None:
    resident = codec.encode_resident(matrix)

    codec.validate(resident)
    assert resident.shape == matrix.shape
    assert int(resident.info[4]) == RESIDENT_FORM
    assert np.array_equal(codec.decode(resident), matrix)


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_do_not_depend_on_threads(threads: int) -> None:
    matrix = make_matrix("gaussian with outliers", 300, 530)
    one, other = codec.encode_resident(matrix, threads=1), codec.encode_resident(matrix, threads=threads)
    assert np.array_equal(one.weight, other.weight)
    assert np.array_equal(one.index, other.index)


@pytest.mark.parametrize(
    ("deviation", "bits"), [(0.0, 0.2), (1.0, 4.1), (2.0, 4.1), (2.6, 4.2), (4.0, 5.1), (6.0, 5.6), (40.0, 8.1)]
)
def test_bits_a_weight_follow_the_deviation(deviation: float, bits: float) -> None:
    matrix = np.random.default_rng(0).normal(size=(512, 1024)) * deviation
    resident = codec.encode_resident(matrix.round().clip(-127, 127).astype(np.int8))
    assert 8 * resident.nbytes / matrix.size < bits


def test_a_few_values_far_outside_are_patches_and_take_next_to_nothing() -> None:
    matrix = np.random.default_rng(0).integers(-8, 8, (256, 512)).astype(np.int8)
    plain = codec.encode_resident(matrix)
    matrix[[3, 100, 255], [7, 300, 511]] = (-128, 127, 100)

    patched = codec.encode_resident(matrix)

    assert patched.nbytes - plain.nbytes == 3 * 3
    assert np.array_equal(codec.decode(patched), matrix)


def _tile_with_patches() -> Compressed:
    matrix = np.random.default_rng(0).integers(-8, 8, (128, 300)).astype(np.int8)
    matrix[5, 5:9] = 100
    matrix[7, 290] = -100
    return codec.encode_resident(matrix)


# Behind two entries of 8 bytes: the first patch of each tile and their number, 32 bits each, then positions.
STARTS, POSITIONS = 16, 28


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (STARTS + 4, 9, r"tile \(0, 0\): the patches do not follow one another"),
        (STARTS + 7, 1, r"tile \(0, 0\): the patches do not follow one another"),
        (STARTS, 5, r"tile \(0, 0\): the patches do not follow one another"),
        (STARTS + 8, 4, "index has 43 bytes, not those of 2 tiles and their patches"),
        (STARTS + 11, 1, "index has 43 bytes, not those of 2 tiles and their patches"),
        (POSITIONS + 1, 127, r"tile \(0, 0\): the patches do not follow one another"),
        (POSITIONS + 9, 127, r"tile \(0, 1\): a patch lies outside the tile"),
        (6, 0xFF, r"tile \(0, 0\): a level is wider than 8 bits"),
    ],
)
def test_damage_is_named(at: int, value: int, message: str) -> None:
    resident = _tile_with_patches()
    index = resident.index.copy()
    index.view(np.uint8)[at] = value

    with pytest.raises(BitstreamError, match=message):
        codec.decode(dataclasses.replace(resident, index=index))


@pytest.mark.parametrize("length", [0, 8, 15, 16, 27, 42, 44])
def test_an_index_of_another_length_is_refused(length: int) -> None:
    resident = _tile_with_patches()
    with pytest.raises(BitstreamError, match=f"index has {length} bytes"):
        codec.validate(dataclasses.replace(resident, index=np.resize(resident.index, length)))


def test_other_types_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="int8 \\[n, k\\] is needed"):
        codec.encode_resident(np.zeros((4, 4), np.int16))  # type: ignore[arg-type]
