"""The entropy-coded form: matrices come back, native codec and reference agree, damage is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import DISTRIBUTIONS, assert_same, make_matrix, matrices
from kernels.test_instruction_sets import run_python
from tilepress import _native, codec
from tilepress.codec import EntropyCoded
from tilepress.codec import entropy_model_reference as model_reference
from tilepress.codec import entropy_reference as reference
from tilepress.errors import BitstreamError

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "bitstream-v2.md").read_text(encoding="utf-8")
DECODERS = [codec.decode_entropy, reference.decode]
both = pytest.mark.parametrize("decode", DECODERS, ids=["native", "reference"])


def quantized_weights(n, k, deviation, seed=0):
    """Gaussian, with rows and columns of different deviations, as models' weights are."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.normal(0, 0.35, (n, 1)), rng.normal(0, 0.3, (1, k))
    return np.clip(np.rint(rng.normal(0, deviation * 2 ** (rows + columns))), -128, 127).astype(np.int8)


# Round trips --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_any_matrix_comes_back(matrix):
    coded = codec.encode_entropy(matrix)
    codec.check_entropy(coded)
    assert (coded.n, coded.k) == coded.shape == matrix.shape
    assert coded.nbytes == coded.weight.nbytes + coded.index.nbytes + 40
    assert np.array_equal(codec.decode_entropy(coded), matrix)


@settings(max_examples=25, deadline=None)
@given(matrices)
def test_native_and_reference_agree(matrix):
    coded = codec.encode_entropy(matrix, threads=2)
    assert_same(coded, reference.encode(matrix))
    assert np.array_equal(reference.decode(coded), matrix)


def test_native_and_reference_agree_where_scales_are_finer():
    matrix = quantized_weights(2050, 2048, 3)
    coded, model = codec.encode_entropy(matrix), model_reference.choose_model(matrix)
    assert model.shift == 1
    weight, begin, rows = coded.weight.tobytes(), int(coded.index.view("<u8")[0]), int(coded.info[1])
    head = bytes([1, len(model.codes)]) + b"".join(model.codes) + model_reference.rice_encode(model.columns)
    assert weight.startswith(head)
    scales = model_reference.rice_encode(model.rows[:rows])
    assert weight[begin + STATES + NUMBERS :].startswith(scales)
    assert np.array_equal(codec.decode_entropy(coded), matrix)


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(1, 32), st.integers(0, 7), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_decoders_read_choices_that_ours_does_not_make(matrix, classes, shift, blocks, seed):
    rng = np.random.default_rng(seed)

    def any_model(matrix):
        codes = []
        for _ in range(classes):
            largest = int(rng.integers(0, 30))
            codes.append(bytes([largest, *rng.integers(0, 32, largest).tolist(), int(rng.integers(1, 60))]))
        rows, columns = (rng.integers(-250, 250, size) // (1 + 7 * (shift < 4)) for size in matrix.shape)
        return model_reference.Model(shift, codes, rows, columns)

    with patch.object(reference, "choose_model", any_model):
        coded = reference.encode(matrix, rows_of_block=32 * blocks)
    codec.check_entropy(coded)
    assert np.array_equal(codec.decode_entropy(coded), matrix)
    assert np.array_equal(reference.decode(coded), matrix)


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_bytes_do_not_depend_on_threads(kind):
    matrix = make_matrix(kind, 700, 1100)
    alone = codec.encode_entropy(matrix, threads=1)
    assert len(alone.index) == 4 * 8
    assert_same(codec.encode_entropy(matrix, threads=7), alone)
    assert_same(codec.encode_entropy(matrix), alone)
    for threads in (1, 7):
        assert np.array_equal(codec.decode_entropy(alone, threads=threads), matrix)


CHECK = """
import sys
import numpy as np
from int8_matrices import DISTRIBUTIONS, assert_same, make_matrix
from tilepress import _native, codec
from tilepress.codec import entropy_reference as reference

assert _native.isa() == sys.argv[1], _native.isa()
for kind in sorted(DISTRIBUTIONS):
    for n, k in ((1, 1), (7, 64), (33, 63), (40, 129), (64, 16), (300, 257)):
        matrix = make_matrix(kind, n, k, seed=n)
        coded = codec.encode_entropy(matrix)
        assert np.array_equal(codec.decode_entropy(coded), matrix), (kind, n, k)
        if n < 50:
            assert np.array_equal(coded.weight, reference.encode(matrix).weight), (kind, n, k)
"""


@pytest.mark.parametrize("isa", _native.isas())
def test_every_instruction_set(isa):
    finished = run_python(CHECK, isa, isa=isa)
    assert finished.returncode == 0, finished.stderr


def test_decoding_to_an_array_of_the_callers():
    matrix = make_matrix("gaussian", 130, 70)
    frame = np.zeros((3, 130, 70), np.int8)
    assert codec.decode_entropy(codec.encode_entropy(matrix), out=frame[1]).base is frame
    assert np.array_equal(frame[1], matrix)
    assert not frame[0].any()
    assert not frame[2].any()


def test_an_array_that_cannot_take_the_matrix_is_refused():
    coded = codec.encode_entropy(np.ones((2, 3), np.int8))
    for out in (np.zeros((3, 2), np.int8), np.zeros((2, 3), np.uint8), np.zeros((2, 6), np.int8)[:, ::2]):
        with pytest.raises(ValueError, match=r"int8 \[2, 3\] is needed, C-contiguous and writable"):
            codec.decode_entropy(coded, out=out)


@pytest.mark.parametrize("matrix", [np.zeros((2, 3), np.float32), np.zeros(3, np.int8), np.zeros((0, 3), np.int8)])
def test_what_is_no_int8_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match=r"int8 \[n, k\] is needed"):
        codec.encode_entropy(matrix)


@pytest.mark.parametrize(("n", "k", "deviation"), [(576, 576, 2), (1536, 576, 4), (1024, 1024, 3)])
def test_weights_take_less_than_their_tiles_and_their_entropy(n, k, deviation):
    matrix = quantized_weights(n, k, deviation)
    coded, tiles = codec.encode_entropy(matrix), codec.encode(matrix)
    assert coded.nbytes < 0.94 * tiles.nbytes
    assert 8 * coded.nbytes < codec.entropy(matrix) * matrix.size


# The page's example -------------------------------------------------------------------------------------------------


def block(name: str) -> list[str]:
    """The lines of the fenced block ```name of the page."""
    found = re.search(rf"^```{name}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/bitstream-v2.md has no block ```{name}"
    return found[1].splitlines()


def test_the_worked_example():
    matrix = np.array([line.split() for line in block("matrix")]).astype(np.int8)
    example = EntropyCoded(
        weight=np.frombuffer(bytes.fromhex("".join(line.partition(":")[2] for line in block("weight"))), np.int8),
        index=np.frombuffer(bytes.fromhex("".join(block("index"))), np.int8),
        info=np.array([int(number, 0) for number in block("info")[0].split()], np.int64),
    )
    for encode in (codec.encode_entropy, reference.encode):
        assert_same(encode(matrix), example)
    for decode in DECODERS:
        assert np.array_equal(decode(example), matrix)


# Damage -------------------------------------------------------------------------------------------------------------

WHOLE = reference.encode(make_matrix("gaussian with outliers", 150, 270), rows_of_block=64)
STARTS = WHOLE.index.view("<u8").tolist()
STATES, NUMBERS = 128, 16


def with_bytes(begin: int, new: bytes) -> EntropyCoded:
    weight = WHOLE.weight.copy()
    weight[begin : begin + len(new)] = np.frombuffer(new, np.int8)
    return EntropyCoded(weight, WHOLE.index, WHOLE.info)


def with_info(place: int, value: int) -> EntropyCoded:
    info = WHOLE.info.copy()
    info[place] = value
    return EntropyCoded(WHOLE.weight, WHOLE.index, info)


def with_offset(number: int, value: int) -> EntropyCoded:
    index = WHOLE.index.copy()
    index.view("<u8")[number] = value
    return EntropyCoded(WHOLE.weight, index, WHOLE.info)


def number_of(begin: int) -> int:
    return int(WHOLE.weight[begin : begin + 8].view("<u8")[0])


REFUSED = {
    "lanes": (with_info(0, 16), "info"),
    "rows of a block": (with_info(1, 48), "info gives blocks of 48 rows"),
    "no rows in a block": (with_info(1, 0), "info gives blocks of 0 rows"),
    "columns": (with_info(2, 0), "info"),
    "rows": (with_info(3, 2**31), "info"),
    "version": (with_info(4, codec.BITSTREAM_V1), "info"),
    "too many rows": (with_info(3, 250), "index has 24 bytes"),
    "other rows": (with_info(3, 130), "block 2"),
    "other columns": (with_info(2, 700), "head"),
    "offset 0": (with_offset(0, 0), "block 0"),
    "unaligned offset": (with_offset(1, STARTS[1] + 32), "block 1"),
    "falling offsets": (with_offset(1, STARTS[2]), "block 1"),
    "offset past the end": (with_offset(2, 2**63), "block"),
    "moved offset": (with_offset(1, STARTS[1] + 64), "block 0"),
    "moved head": (with_offset(0, STARTS[0] + 64), "head"),
    "shift": (with_bytes(0, b"\x08"), "head"),
    "no classes": (with_bytes(1, b"\x00"), "head"),
    "too many classes": (with_bytes(1, b"\x21"), "head"),
    "large magnitude": (with_bytes(2, b"\x80"), "head"),
    "large code": (with_bytes(3, b"\x80"), "head"),
    "large sum": (with_bytes(3, b"\x7f\x7f"), "head"),
    "a low state": (with_bytes(STARTS[1], bytes(4)), "block 1: a state is below 65536"),
    "another state": (with_bytes(STARTS[1], b"\1\2\3\4"), "block 1: its codes"),
    "one word more": (
        with_bytes(STARTS[0] + STATES, (number_of(STARTS[0] + STATES) + 1).to_bytes(8, "little")),
        "block 0",
    ),
    "many words": (with_bytes(STARTS[0] + STATES, b"\xff" * 8), "block 0"),
    "many escapes": (with_bytes(STARTS[0] + STATES + 8, b"\xff" * 8), "block 0"),
    "parameter": (with_bytes(STARTS[2] + STATES + NUMBERS + 2, b"\x09"), "block 2: .* parameter above 8"),
    "a far scale": (with_bytes(STARTS[2] + STATES + NUMBERS + 3, b"\xff" * 300), "block 2"),
    "the end is missing": (EntropyCoded(WHOLE.weight[:-64], WHOLE.index, WHOLE.info), "block 2"),
    "part of a line is missing": (EntropyCoded(WHOLE.weight[:-1], WHOLE.index, WHOLE.info), "block 2"),
    "no weight": (EntropyCoded(WHOLE.weight[:0], WHOLE.index, WHOLE.info), "block"),
    "no index": (EntropyCoded(WHOLE.weight, WHOLE.index[:0], WHOLE.info), "index has 0 bytes"),
    "part of an index": (EntropyCoded(WHOLE.weight, WHOLE.index[:-3], WHOLE.info), "index has 21 bytes"),
}


@both
@pytest.mark.parametrize("what", REFUSED)
def test_damage_is_refused(decode, what):
    damaged, where = REFUSED[what]
    with pytest.raises(BitstreamError, match=where):
        decode(damaged)


def test_arrays_of_another_type_are_refused():
    with pytest.raises(BitstreamError, match=r"weight is uint8 \[.*\], not int8"):
        EntropyCoded(WHOLE.weight.view(np.uint8), WHOLE.index, WHOLE.info)
    with pytest.raises(BitstreamError, match="info has 4 entries, not 5"):
        EntropyCoded(WHOLE.weight, WHOLE.index, WHOLE.info[:4])


def outcome(decode, coded):
    """The matrix, or None where `decode` raises BitstreamError."""
    try:
        return decode(coded)
    except BitstreamError:
        return None


def assert_decoders_agree(damaged):
    native, expected = outcome(codec.decode_entropy, damaged), outcome(reference.decode, damaged)
    assert (native is None) == (expected is None)
    if native is not None:
        assert native.shape == damaged.shape
        assert np.array_equal(native, expected)


places = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(places, st.sampled_from(["weight", "index", "info"]))
def test_flipped_bits(flips, part):
    parts = {name: getattr(WHOLE, name).copy() for name in ("weight", "index", "info")}
    for place, bit in flips:
        parts[part].view(np.uint8)[int(place * parts[part].nbytes)] ^= 1 << bit
    assert_decoders_agree(EntropyCoded(**parts))


@settings(max_examples=80, deadline=None)
@given(places, st.integers(0, 3))
def test_flipped_bits_of_heads(flips, number):
    """The head and the blocks' headers are few of the bytes, so they get their own turn."""
    weight = WHOLE.weight.copy()
    begin = [0, *STARTS][number]
    for place, bit in flips:
        weight.view(np.uint8)[begin + int(place * 300)] ^= 1 << bit
    assert_decoders_agree(EntropyCoded(weight, WHOLE.index, WHOLE.info))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(WHOLE.weight)), st.integers(0, 24))
def test_truncations(length, index_length):
    assert outcome(codec.decode_entropy, EntropyCoded(WHOLE.weight[:length], WHOLE.index, WHOLE.info)) is None or (
        length == len(WHOLE.weight)
    )
    shorter = EntropyCoded(WHOLE.weight[:length].copy(), WHOLE.index[: index_length // 8 * 8], WHOLE.info)
    assert_decoders_agree(shorter)


@pytest.mark.parametrize("seed", range(20))
def test_random_words(seed):
    """A sound head and headers over noise: codes lead anywhere, and decoding ends in BitstreamError."""
    weight = WHOLE.weight.copy()
    rng = np.random.default_rng(seed)
    for begin, end in zip(STARTS, [*STARTS[1:], len(weight)], strict=True):
        noise = weight[begin + 300 : end]
        noise[:] = rng.integers(-128, 128, len(noise))
    with pytest.raises(BitstreamError, match="block 0: its codes"):
        codec.decode_entropy(EntropyCoded(weight, WHOLE.index, WHOLE.info))


def test_most_damage_to_words_is_found():
    found = 0
    for place in range(STARTS[0] + 400, STARTS[1] - 64, 97):
        weight = WHOLE.weight.copy()
        weight[place] ^= 1
        found += outcome(codec.decode_entropy, EntropyCoded(weight, WHOLE.index, WHOLE.info)) is None
    assert found == len(range(STARTS[0] + 400, STARTS[1] - 64, 97))


OUT_OF_MEMORY = """
import resource
import numpy as np
from tilepress import codec

matrix = np.random.default_rng(0).integers(-128, 128, (8192, 4096)).astype(np.int8)
codec.encode_entropy(matrix[:700, :1100].copy(), threads=2)  # the threads have their stacks
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 30_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    codec.encode_entropy(matrix, threads=2)
except MemoryError:
    print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit of address space")
def test_memory_that_runs_out_in_a_thread_is_an_error_and_not_a_crash():
    finished = run_python(OUT_OF_MEMORY, isa=_native.isas()[0])
    assert (finished.returncode, finished.stdout.split()) == (0, ["refused"]), finished.stderr


def test_a_matrix_larger_than_memory_is_refused_by_its_size():
    refused = pytest.raises(BitstreamError, match=f"{WHOLE.n} x {WHOLE.k}, more than memory holds")
    with patch("tilepress.codec.entropy_coding.matrix_to_fill", side_effect=MemoryError), refused:
        codec.decode_entropy(WHOLE)
