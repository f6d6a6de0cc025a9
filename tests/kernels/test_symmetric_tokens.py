"""Tokens that each have a symmetric scale of their own, as the vendor's W8A8_DYNAMIC computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import make_matrix, matrices
from kernels.linears import Linear, make_linear, tokens
from tilepress.kernels.op import linear_from_python
from tilepress.kernels.reference import SYMMETRIC

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def symmetric(linear: Linear) -> Linear:
    linear.input_offset.fill_(SYMMETRIC)
    linear.quant_bias.sub_(SYMMETRIC * linear.weight_sums)
    return linear


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 8, 33])
def test_equal_bits(batch: int, dtype: torch.dtype) -> None:
    linear = symmetric(make_linear(make_matrix("gaussian", 130, 300)))
    x = tokens((batch, 300), dtype)
    expected = linear.expected_with_own_scales(x)
    assert torch.equal(linear.with_own_scales(x), expected)
    assert torch.equal(linear_from_python(x, *linear.operands, linear.weight_sums), expected)


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 9), st.sampled_from(DTYPES), st.sampled_from([1e-30, 1e-4, 1.0, 100.0]))
def test_any_matrix_and_size_of_tokens(matrix, batch, dtype, size):
    linear = symmetric(make_linear(matrix))
    x = tokens((batch, matrix.shape[1]), torch.float32).mul(size).to(dtype)
    assert torch.equal(linear.with_own_scales(x), linear.expected_with_own_scales(x))


def test_it_is_the_vendors_formula() -> None:
    linear = make_linear(make_matrix("gaussian", 64, 256))
    bias, weight_scale = linear.quant_bias * linear.deq_scale, linear.deq_scale / linear.input_scale
    x = tokens((7, 256))
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    integers = torch.round(x / scale)
    expected = integers @ linear.matrix.float().T * weight_scale * scale + bias
    torch.testing.assert_close(symmetric(linear).with_own_scales(x), expected, rtol=1e-4, atol=1e-4)


def test_a_token_of_zeros_gives_the_bias_alone() -> None:
    linear = make_linear(make_matrix("gaussian", 40, 70))
    bias = linear.quant_bias.float() * linear.deq_scale
    assert torch.equal(symmetric(linear).with_own_scales(torch.zeros(2, 70)), bias.expand(2, -1))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_values_that_are_no_numbers(value: float) -> None:
    linear = symmetric(make_linear(make_matrix("gaussian", 40, 70)))
    x = tokens((3, 70))
    x[1, 0] = value
    assert torch.equal(linear.with_own_scales(x), linear.expected_with_own_scales(x))


def test_it_needs_the_sums_of_the_weights() -> None:
    linear = symmetric(make_linear(make_matrix("gaussian", 40, 70)))
    with pytest.raises(ValueError, match="input_offset is 128, outside -128 to 127"):
        linear(tokens((1, 70)))
