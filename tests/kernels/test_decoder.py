"""The native decoder against the plain formulas."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernels.decoders import (
    Inputs,
    RandomDecoder,
    Shape,
    kept_rows,
    native_sequence,
    native_step,
    plain_step,
    random_inputs,
    restored_rows,
)
from tilepress import _native

SHAPES = {
    "llama": Shape(),
    "norms of queries and keys": Shape(normed=True),
    "no groups": Shape(queries=3, heads=3, head_size=8, layers=1),
    "one head for all": Shape(queries=5, heads=1, head_size=24),
    "a window": Shape(window=10),
    "odd sizes": Shape(hidden=37, intermediate=45, vocabulary=131),
    "wide": Shape(hidden=256, intermediate=9000, head_size=128, layers=1),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("head_type", ["float32", "float16", "bfloat16"])
def test_agrees_with_the_formulas(shape: Shape, head_type: str) -> None:
    decoder = RandomDecoder(shape, head_type)
    native = decoder.native()
    for past, tokens in ((0, 1), (6, 2), (126, 5), (300, 1), (100, 40)):
        inputs, caches, expected_caches = random_inputs(shape, tokens), decoder.caches(310), decoder.caches(310)
        expected = plain_step(decoder, inputs, expected_caches, past)
        np.testing.assert_allclose(native_step(decoder, native, inputs, caches, past), expected, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(caches, expected_caches, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kept", "tolerance"), [("float16", 5e-3), ("int8", 0.05)])
@pytest.mark.parametrize("shape", [SHAPES["llama"], SHAPES["no groups"], SHAPES["a window"], Shape(head_size=128)])
def test_keys_and_values_in_fewer_bits(shape: Shape, kept: str, tolerance: float) -> None:
    """tolerance: a number that lies between two may be rounded to the other one."""
    decoder = RandomDecoder(shape)
    native = decoder.native()
    for past, tokens in ((0, 3), (300, 1), (100, 40)):
        inputs = random_inputs(shape, tokens)
        caches = [kept_rows(cache, kept) for cache in decoder.caches(310)]
        expected_caches = [restored_rows(cache, kept) for cache in caches]
        expected = plain_step(decoder, inputs, expected_caches, past, kept)
        actual = native_step(decoder, native, inputs, caches, past, kept=kept)
        np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)
        for cache, expected_cache in zip(caches, expected_caches, strict=True):
            np.testing.assert_allclose(restored_rows(cache, kept), expected_cache, atol=tolerance, rtol=tolerance)


def test_numbers_that_float16_and_int8_do_not_have() -> None:
    decoder = RandomDecoder(Shape(layers=1))
    attended = 4 * 16
    decoder.layers[0].query_key_value[attended:] *= 0
    decoder.layers[0].query_key_value_bias[attended:] = 0
    decoder.layers[0].query_key_value_bias[attended + 2 * 16] = 1e6  # of values
    for kept, expected in (("float16", 65504.0), ("int8", 1e6)):
        caches = [kept_rows(cache, kept) for cache in decoder.caches(9)]
        logits = native_step(decoder, decoder.native(), random_inputs(decoder.shape, 1), caches, 8, kept=kept)
        assert np.isfinite(logits).all()
        keys, values = restored_rows(caches[0][:, :, 8], kept)
        assert (keys == 0).all()
        assert values[0, 0] == pytest.approx(expected)
        assert (values[0, 1:] == 0).all()


@pytest.mark.parametrize("kept", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("past", "tokens"), [(3, 5), (140, 33)])
def test_what_is_not_a_number_does_not_become_one(kept: str, past: int, tokens: int) -> None:
    decoder = RandomDecoder(Shape(layers=1))
    inputs, caches = random_inputs(decoder.shape, tokens), [kept_rows(c, kept) for c in decoder.caches(200)]
    inputs.x[2] = np.nan
    logits = native_step(decoder, decoder.native(), inputs, caches, past, kept=kept)
    assert np.isfinite(logits[:2]).all()
    assert np.isnan(logits[2:]).all()


def test_a_few_tokens_behind_a_long_text() -> None:
    """So many that their partial results would take megabytes, with the bits of one token at a time."""
    shape = Shape(queries=32, heads=8, head_size=128, layers=1)
    decoder = RandomDecoder(shape)
    native, inputs, caches = decoder.native(), random_inputs(shape, 10), decoder.caches(9000)
    together = native_step(decoder, native, inputs, caches, 8900)
    for t in range(10):
        alone = Inputs(*(array[t : t + 1] for array in vars(inputs).values()))
        assert np.array_equal(native_step(decoder, native, alone, caches, 8900 + t), together[t : t + 1])


def test_far_apart_scores() -> None:
    """Weights from 1 to 0 within and across chunks of tokens."""
    decoder = RandomDecoder(Shape(layers=1))
    for factor in (0.0, 1e-3, 30.0, 1e3):
        decoder.layers[0].query_key_value[: 4 * 16] *= factor
        caches, expected_caches = decoder.caches(301), decoder.caches(301)
        inputs = random_inputs(decoder.shape, 1)
        expected = plain_step(decoder, inputs, expected_caches, 300)
        actual = native_step(decoder, decoder.native(), inputs, caches, 300)
        np.testing.assert_allclose(actual, expected, atol=2e-4, rtol=2e-4)
        decoder = RandomDecoder(Shape(layers=1))


@pytest.mark.parametrize("gate", [0.0, 100.0, -100.0, 1e30, -1e30])
def test_gates_of_any_size(gate: float) -> None:
    decoder = RandomDecoder(Shape(layers=1))
    layer = decoder.layers[0]
    layer.gate_up[: decoder.shape.intermediate] = 0
    layer.gate_up[0] = gate
    layer.down /= max(1.0, abs(gate))
    inputs = random_inputs(decoder.shape, 1)
    with np.errstate(over="ignore"):
        expected = plain_step(decoder, inputs, decoder.caches(9), 8)
    actual = native_step(decoder, decoder.native(), inputs, decoder.caches(9), 8)
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)


def test_steps_of_any_size_and_any_number_of_threads_give_the_same_bits() -> None:
    for shape in (SHAPES["wide"], SHAPES["a window"]):
        decoder = RandomDecoder(shape, "float16")
        native, inputs, caches = decoder.native(), random_inputs(shape, 160), decoder.caches(300)
        expected = native_step(decoder, native, inputs, caches, 110, threads=1)
        for threads in (2, 5):
            others = decoder.caches(300)
            assert np.array_equal(native_step(decoder, native, inputs, others, 110, threads), expected)
            assert np.array_equal(others, caches)
            logits, others = [], decoder.caches(300)
            for first, last in ((0, 1), (1, 3), (3, 34), (34, 160)):
                part = Inputs(*(array[first:last] for array in vars(inputs).values()))
                logits.append(native_step(decoder, native, part, others, 110 + first, threads))
            assert np.array_equal(np.concatenate(logits), expected)
            assert np.array_equal(others, caches)


def test_logits_of_the_last_tokens_alone() -> None:
    decoder = RandomDecoder(Shape())
    native, inputs = decoder.native(), random_inputs(decoder.shape, 40)
    expected = native_step(decoder, native, inputs, decoder.caches(50), 10)
    for asked in (0, 1, 3):
        actual = native_step(decoder, native, inputs, decoder.caches(50), 10, asked=asked)
        assert np.array_equal(actual, expected[40 - asked :])


def test_sequences_beside_each_other_get_the_bits_that_each_gets_alone() -> None:
    decoder = RandomDecoder(SHAPES["wide"], "float16")
    native, inputs = decoder.native(), random_inputs(decoder.shape, 48)
    # (tokens, those before them, how many of the logits are wanted), a part of a prompt among them.
    sequences = [(1, 0, 1), (3, 100, 2), (40, 20, 0), (1, 299, 1), (3, 7, 3)]
    expected, alone, first = [], [], 0
    for number, (tokens, past, asked) in enumerate(sequences):
        part = Inputs(*(array[first : first + tokens] for array in vars(inputs).values()))
        own = decoder.caches(300, seed=number)
        expected.append(native_step(decoder, native, part, own, past, asked=asked))
        alone.append(own)
        first += tokens
    for threads in (1, 2, 5):
        together = [decoder.caches(300, seed=number) for number in range(len(sequences))]
        views = zip(sequences, together, strict=True)
        parts = [native_sequence(caches, past, tokens, asked) for (tokens, past, asked), caches in views]
        logits = np.empty((7, decoder.shape.vocabulary), np.float32)
        native.step(*inputs.addresses(), parts, logits.ctypes.data, threads)
        assert np.array_equal(logits, np.concatenate(expected))
        assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


PROGRAM = """
from kernels.decoders import RandomDecoder, kept_rows, native_step, random_inputs
from kernels.test_decoder import SHAPES
for shape in SHAPES.values():
    for head, kept in (("float32", "int8"), ("float16", "float16"), ("bfloat16", "float32")):
        decoder = RandomDecoder(shape, head)
        caches = [kept_rows(cache, kept) for cache in decoder.caches(170)]
        logits = native_step(decoder, decoder.native(), random_inputs(shape, 40), caches, 130, kept=kept)
        print(logits.tobytes().hex(), [cache.tobytes().hex() for cache in caches])
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TILEPRESS_ISA": isa, "PYTHONPATH": str(Path(__file__).parents[1])},
        ).stdout
        for isa in _native.isas()
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 5}, "no decoder has 48 columns, 5 queries, 2 heads of 16"),
        ({"head_size": 12}, "2 heads of 12"),
        ({"hidden": 40}, "attention_norm has 48 entries; 40 are needed"),
        ({"heads": 4}, r"query_key_value gives 128 columns, 192 are needed"),
    ],
)
def test_shapes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    decoder = RandomDecoder(Shape())
    decoder.shape = replace(decoder.shape, **change)
    with pytest.raises(ValueError, match=message):
        decoder.native()


def test_caches_without_room() -> None:
    decoder = RandomDecoder(Shape())
    with pytest.raises(ValueError, match="logits of more tokens than there are"):
        native_step(decoder, decoder.native(), random_inputs(decoder.shape, 2), decoder.caches(9), 5, asked=3)
    with pytest.raises(ValueError, match="the caches have no room"):
        native_step(decoder, decoder.native(), random_inputs(decoder.shape, 2), decoder.caches(9), 8)
    with pytest.raises(ValueError, match="caches has 1 entries; 2 are needed"):
        native_step(decoder, decoder.native(), random_inputs(decoder.shape, 1), decoder.caches(9)[:1], 8)
    with pytest.raises(ValueError, match="there are no sequences"):
        decoder.native().step(0, 0, 0, [], 0, 1)
