"""Damage is refused with a BitstreamError that says what and where, by the native codec and the reference alike."""

from __future__ import annotations

import numpy as np
import pytest

from int8_matrices import make_matrix
from tilepress import codec
from tilepress.codec import Compressed, reference
from tilepress.errors import BitstreamError

VALIDATORS = [codec.validate, reference.validate]
DECODERS = [codec.decode, reference.decode]

# Two rows of two tiles. Each tile has three levels or more.
WHOLE = codec.encode(make_matrix("rows of different scale", 200, 300))
LAST = reference.parse(WHOLE)[-1]
LAST_STRIPS = 5
both = pytest.mark.parametrize(
    "refuse", VALIDATORS + DECODERS, ids=["native", "reference", "native decode", "reference decode"]
)


def with_info(**changes: int) -> Compressed:
    fields = dict(zip(("tiling_k", "tiling_n", "k", "n", "version"), WHOLE.info.tolist(), strict=True))
    return Compressed(WHOLE.weight, WHOLE.index, np.array(list((fields | changes).values()), np.int64))


def with_nibbles(nibbles: tuple[int, int, int, int]) -> Compressed:
    """The last tile's widths, plus 1, replaced."""
    entries = WHOLE.entries().copy()
    offset = int(entries[-1]) & (1 << 48) - 1
    entries[-1] = offset | sum(nibble << 48 + 4 * level for level, nibble in enumerate(nibbles))
    return Compressed(WHOLE.weight, entries.view(np.int8), WHOLE.info)


def with_number(position: int, value: int) -> Compressed:
    """One of the 16-bit numbers in the last tile's header replaced."""
    weight = WHOLE.weight.copy()
    weight[LAST.header + 2 * position :][:2].view("<u2")[0] = value
    return Compressed(weight, WHOLE.index, WHOLE.info)


def without_escapes(begin: int, length: int) -> Compressed:
    """Codes replaced by zeros, which no escape is."""
    weight = WHOLE.weight.copy()
    weight[begin : begin + length] = 0
    return Compressed(weight, WHOLE.index, WHOLE.info)


def test_the_undamaged_tensor_is_accepted():
    assert len(LAST.widths) > 2
    assert len(LAST.sync) == LAST_STRIPS
    for accept in VALIDATORS + DECODERS:
        accept(WHOLE)


@pytest.mark.parametrize("length", [0, 4, 6])
def test_info_of_another_length(length):
    with pytest.raises(BitstreamError, match=f"info has {length} entries, not 5"):
        Compressed(WHOLE.weight, WHOLE.index, np.ones(length, np.int64))


def test_tensors_of_another_type():
    with pytest.raises(BitstreamError, match=r"weight is uint8 \[.*\], not int8"):
        Compressed(WHOLE.weight.view(np.uint8), WHOLE.index, WHOLE.info)
    with pytest.raises(BitstreamError, match=r"index is int8 \[4, 8\], not int8 \[\.\.\.\]"):
        Compressed(WHOLE.weight, WHOLE.index.reshape(4, 8), WHOLE.info)


@both
@pytest.mark.parametrize("version", [0, 0x54500002, -1, 12345])
def test_tensors_of_a_foreign_compressor(refuse, version):
    with pytest.raises(BitstreamError, match=r"vendor's closed compressor.*compress it from the W8A8S directory"):
        refuse(with_info(version=version))


@both
@pytest.mark.parametrize("change", [{"n": 0}, {"n": 2**31}, {"k": -1}, {"k": 2**62}, {"n": -(2**63)}])
def test_impossible_dimensions(refuse, change):
    with pytest.raises(BitstreamError, match="both must be 1 to"):
        refuse(with_info(**change))


@both
@pytest.mark.parametrize("tiling", [(0, 8), (8, 0), (-8, -8), (8, 9), (65, 1), (2**33, 2**33)])
def test_impossible_tilings(refuse, tiling):
    with pytest.raises(BitstreamError, match="their product at most 64"):
        refuse(with_info(tiling_n=tiling[0], tiling_k=tiling[1]))


@both
def test_an_index_of_the_wrong_length(refuse):
    for index in (WHOLE.index[:-8], WHOLE.index[:-1], np.append(WHOLE.index, np.zeros(8, np.int8))):
        with pytest.raises(BitstreamError, match="has 4 tiles of 8"):
            refuse(Compressed(WHOLE.weight, index, WHOLE.info))
    with pytest.raises(BitstreamError, match="tiles of 8"):
        refuse(with_info(n=2**31 - 1, k=2**31 - 1))


@both
@pytest.mark.parametrize(
    ("nibbles", "complaint"),
    [
        ((10, 0, 0, 0), "a level is wider than 8 bits"),
        ((3, 3, 15, 0), "a level is wider than 8 bits"),
        ((3, 0, 4, 0), "an unused level stands before a used one"),
        ((0, 4, 0, 0), "an unused level stands before a used one"),
        ((0, 0, 0, 0), "no level at all"),
        ((1, 4, 0, 0), "a level with an escape has width 0 or 8"),
        ((9, 4, 0, 0), "a level with an escape has width 0 or 8"),
        ((4, 9, 4, 0), "a level with an escape has width 0 or 8"),
    ],
)
def test_impossible_widths(refuse, nibbles, complaint):
    with pytest.raises(BitstreamError, match=rf"tile \(1, 1\): {complaint}"):
        refuse(with_nibbles(nibbles))


@both
@pytest.mark.parametrize("shift", [64, -64, 1, 1 << 47])
def test_an_offset_that_is_not_where_the_tile_before_ends(refuse, shift):
    entries = WHOLE.entries().copy()
    entries[2] = int(entries[2]) + shift
    with pytest.raises(BitstreamError, match=r"tile \(1, 0\): the offset is not where the tile before ends"):
        refuse(Compressed(WHOLE.weight, entries.view(np.int8), WHOLE.info))


@both
@pytest.mark.parametrize("missing", [1, 64, LAST.end - LAST.codes, LAST.end - LAST.header, LAST.end - LAST.level_0])
def test_a_tile_that_reaches_past_the_end(refuse, missing):
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): the tile reaches past the end of weight"):
        refuse(Compressed(WHOLE.weight[:-missing], WHOLE.index, WHOLE.info))


@both
def test_a_weight_that_goes_on_behind_the_last_tile(refuse):
    longer = np.append(WHOLE.weight, np.zeros(64, np.int8))
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): the last tile ends before the end of weight"):
        refuse(Compressed(longer, WHOLE.index, WHOLE.info))


@both
def test_a_sync_table_that_falls(refuse):
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): the sync table falls"):
        refuse(with_number(1, int(LAST.sync[0]) - 1))


@both
def test_a_sync_table_that_jumps(refuse):
    strip_symbols = LAST.counts[0] // LAST_STRIPS
    with pytest.raises(
        BitstreamError, match=r"tile \(1, 1\): the sync table grows by more than the symbols of a strip"
    ):
        refuse(with_number(0, strip_symbols + 1))


@both
def test_a_count_larger_than_the_one_before(refuse):
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): a level has more codes than the one before"):
        refuse(with_number(LAST_STRIPS, LAST.counts[1] + 1))


def test_the_index_alone_tells_of_a_foreign_or_damaged_index():
    """What opening a checkpoint checks, without touching the tiles."""
    codec.check_index(WHOLE)
    noise = Compressed(np.zeros_like(WHOLE.weight), WHOLE.index, WHOLE.info)
    codec.check_index(noise)
    entries = WHOLE.entries()
    for tile, shift, complaint in (
        (0, 64, r"tile \(0, 0\): the offset is not 0"),
        (2, 1, r"tile \(1, 0\): the offset is not a multiple of 64"),
        (2, 1 << 47, r"tile \(1, 0\): the tile reaches past the end of weight"),
        (2, -(int(entries[2] - entries[1]) & 0xFFFFFFFFFFFF), r"tile \(1, 0\): the offset does not rise"),
    ):
        damaged = entries.copy()
        damaged[tile] = int(damaged[tile]) + shift
        with pytest.raises(BitstreamError, match=complaint):
            codec.check_index(Compressed(WHOLE.weight, damaged.view(np.int8), WHOLE.info))
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): no level at all"):
        codec.check_index(with_nibbles((0, 0, 0, 0)))
    with pytest.raises(BitstreamError, match="vendor's closed compressor"):
        codec.check_index(with_info(version=1))


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(("level", "begin", "block"), [(0, LAST.level_0, 64), (1, LAST.codes, 16)])
def test_codes_with_another_number_of_escapes(decode, level, begin, block):
    """Only decoding finds this: headers are sound."""
    damaged = without_escapes(begin, block * LAST.widths[level])
    codec.validate(damaged)
    reference.validate(damaged)
    with pytest.raises(BitstreamError, match=rf"tile \(1, 1\): .*level {level}.*level {level + 1}"):
        decode(damaged)


@pytest.mark.parametrize("decode", DECODERS)
def test_escapes_in_other_strips_than_the_sync_table_says(decode):
    damaged = with_number(1, int(LAST.sync[1]) - 1)
    codec.validate(damaged)
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): .*level 0.*"):
        decode(damaged)
