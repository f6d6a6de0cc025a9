"""Bytes changed at random: no decoder crashes, and both agree whether the tensor's headers are sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import DISTRIBUTIONS, make_matrix
from tilepress import codec
from tilepress.codec import Compressed, reference
from tilepress.errors import BitstreamError

ORIGINALS = [codec.encode(make_matrix(kind, 150, 270)) for kind in sorted(DISTRIBUTIONS)]
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8)


def outcome(action, compressed):
    """What `action` returns, or None where it raises BitstreamError."""
    try:
        return action(compressed)
    except BitstreamError:
        return None


def flip(array, places):
    flipped = array.copy()
    for place, bit in places:
        flipped.view(np.uint8)[int(place * flipped.nbytes)] ^= 1 << bit
    return flipped


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ORIGINALS), flips, st.sampled_from(["weight", "index", "info"]))
def test_flipped_bits(original, places, part):
    parts = {name: getattr(original, name) for name in ("weight", "index", "info")}
    damaged = Compressed(**(parts | {part: flip(parts[part], places)}))
    sound = [
        outcome(lambda c, check=check: check(c) is None, damaged) for check in (codec.validate, reference.validate)
    ]
    assert sound[0] == sound[1]
    if sound[0]:
        codec.check_index(damaged)
    native, expected = outcome(codec.decode, damaged), outcome(reference.decode, damaged)
    assert (native is None) == (expected is None)
    if native is not None:
        assert native.shape == damaged.shape
        assert np.array_equal(native, expected)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ORIGINALS), flips)
def test_flipped_bits_of_headers(original, places):
    """Headers are few of the bytes, so they get their own turn."""
    tiles = reference.parse(original)
    weight = original.weight.copy()
    for place, bit in places:
        tile = tiles[int(place * len(tiles))]
        span = weight[tile.header : max(tile.codes, tile.header + 1)].view(np.uint8)
        if len(span):
            span[int(place * 1000003) % len(span)] ^= 1 << bit
    damaged = Compressed(weight, original.index, original.info)
    native, expected = outcome(codec.decode, damaged), outcome(reference.decode, damaged)
    assert (native is None) == (expected is None)
    if native is not None:
        assert np.array_equal(native, expected)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ORIGINALS), flips, st.sampled_from(["weight", "index", "info"]), st.data())
def test_cutting_what_is_damaged(original, places, part, data):
    """As far as opening a directory does not refuse it: tiles move unseen, and what has to be decoded is checked."""
    parts = {name: getattr(original, name) for name in ("weight", "index", "info")}
    damaged = Compressed(**(parts | {part: flip(parts[part], places)}))
    if outcome(lambda c: codec.check_index(c) is None, damaged) is None:
        return
    axis, gather = data.draw(st.sampled_from([(0, codec.gather_rows), (1, codec.gather_columns)]))
    start = data.draw(st.integers(0, damaged.shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, damaged.shape[axis]))
    gathered = outcome(lambda c: gather([(c, start, stop)]), damaged)
    if gathered is not None:
        codec.check_index(gathered.weight)
        assert gathered.weight.shape[axis] == stop - start
        assert gathered.weight.shape[1 - axis] == damaged.shape[1 - axis]
        whole, cut = outcome(codec.decode, damaged), outcome(codec.decode, gathered.weight)
        if whole is not None:
            assert np.array_equal(cut, whole[start:stop] if axis == 0 else whole[:, start:stop])


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(seed):
    """A sound index over noise: whatever the widths, decoding ends in a matrix or in a BitstreamError."""
    rng = np.random.default_rng(seed)
    original = ORIGINALS[seed % len(ORIGINALS)]
    noise = rng.integers(-128, 128, len(original.weight)).astype(np.int8)
    matrix = outcome(codec.decode, Compressed(noise, original.index, original.info))
    assert matrix is None or matrix.shape == original.shape
