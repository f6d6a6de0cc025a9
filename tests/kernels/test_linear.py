"""The native linear against its definition on the plain matrix: equal bits, whatever the weights and the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import DISTRIBUTIONS, make_matrix, matrices, matrices_of_every_width
from kernels.linears import make_linear, tokens
from tilepress.codec import reference as codec_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_weight(kind, dtype):
    linear = make_linear(make_matrix(kind, 270, 530))
    x = tokens((5, 530), dtype)
    assert_same_bits(linear(x), linear.expected(x))


@pytest.mark.parametrize("batch", [*range(1, 34), 100, 300])
def test_every_batch_size(batch):
    linear = make_linear(make_matrix("gaussian", 130, 300))
    x = tokens((batch, 300))
    assert_same_bits(linear(x), linear.expected(x))


@settings(max_examples=100, deadline=None)
@given(matrices, st.integers(1, 9), st.sampled_from(DTYPES), st.sampled_from([1e-3, 0.01, 0.05, 1.0]))
def test_ragged_shapes_and_all_ranges_of_activations(matrix, batch, dtype, scale):
    linear = make_linear(matrix, scale=scale)
    x = tokens((batch, matrix.shape[1]), dtype)
    assert_same_bits(linear(x), linear.expected(x))


@pytest.mark.parametrize("tiling", [(1, 1), (64, 1), (1, 64), (3, 5)])
def test_other_tilings(tiling):
    matrix = make_matrix("gaussian with outliers", 300, 530)
    linear = make_linear(matrix, codec_reference.encode(matrix, *tiling))
    x = tokens((6, 530))
    assert_same_bits(linear(x), linear.expected(x))


def test_widths_of_every_level():
    widths = set()
    for matrix in matrices_of_every_width():
        linear = make_linear(matrix)
        entries = linear.index.numpy().view(np.uint64)
        widths |= {(level, int(e) >> (48 + 4 * level) & 15) for e in entries for level in range(4)}
        x = tokens((3, 512))
        assert_same_bits(linear(x), linear.expected(x))
    assert {width for level, width in widths if level == 0} >= {2, 3, 4, 5, 6, 7}
    assert {width for level, width in widths if level > 0} >= {0, 2, 3, 4, 5, 9}


def test_leading_dimensions_are_kept():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    x = tokens((2, 3, 4, 70))
    assert linear(x).shape == (2, 3, 4, 40)
    assert_same_bits(linear(x), linear.expected(x))
    assert_same_bits(linear(x[0, 0, 0]), linear.expected(x[0, 0, 0]))


def test_no_tokens():
    assert make_linear(make_matrix("gaussian", 40, 70))(torch.empty(0, 70)).shape == (0, 40)


def test_strided_activations():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    x = tokens((70, 5)).T
    assert_same_bits(linear(x), linear.expected(x))


def test_rounding_to_nearest_even():
    """Every product and every quotient on a tie: 0.5, 1.5, 2.5 ... steps."""
    linear = make_linear(make_matrix("sparse", 64, 64), scale=0.25)
    x = (torch.arange(-320, 320) * 0.125).reshape(10, 64)
    for dtype in DTYPES:
        assert_same_bits(linear(x.to(dtype)), linear.expected(x.to(dtype)))


def test_extreme_activations():
    linear = make_linear(make_matrix("incompressible", 64, 96))
    extremes = torch.tensor([0.0, -0.0, 1e-45, -1e-38, 1e38, -3e38, torch.inf, -torch.inf, torch.nan, -torch.nan])
    x = extremes.repeat(10)[:96].repeat(3, 1)
    for dtype in DTYPES:
        assert_same_bits(linear(x.to(dtype)), linear.expected(x.to(dtype)))


def test_subnormal_and_overflowing_results():
    matrix = make_matrix("gaussian", 64, 64)
    linear = make_linear(matrix)
    for factor in (1e-12, 1e-7, 1e-5, 1e2, 1e34):
        linear.deq_scale.copy_(torch.rand(64) * factor)
        for dtype in DTYPES:
            x = tokens((7, 64), dtype)
            assert_same_bits(linear(x), linear.expected(x))


def test_sums_wrap_at_32_bits():
    linear = make_linear(np.full((16, 32), 127, np.int8))
    linear.quant_bias.fill_(2**31 - 1)
    x = torch.full((2, 32), 100.0)
    assert_same_bits(linear(x), linear.expected(x))
    assert (linear(x) < 0).all()


def test_saturated_products():
    """The largest symbols and values there are, in every position: no intermediate may saturate."""
    for low, high in [(-128, 127), (-128, -128), (0, 127), (-127, 0), (-64, 63)]:
        matrix = np.where(np.random.default_rng(0).random((128, 256)) < 0.5, low, high).astype(np.int8)
        linear = make_linear(matrix)
        x = torch.full((5, 256), -1e9)
        x[1], x[2, ::2], x[3, ::3] = 1e9, 1e9, 0
        assert_same_bits(linear(x), linear.expected(x))


@pytest.mark.parametrize("batch", [1, 5, 300])
def test_thread_counts_give_equal_bits(batch):
    linear = make_linear(make_matrix("gaussian with outliers", 700, 1100))
    x = tokens((batch, 1100))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(linear(x))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(results[0], linear.expected(x))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_tokens_do_not_depend_on_their_neighbours():
    linear = make_linear(make_matrix("rows of different scale", 130, 300))
    x = tokens((20, 300)) * torch.logspace(-3, 3, 20)[:, None]
    assert_same_bits(linear(x), torch.cat([linear(row[None]) for row in x]))
