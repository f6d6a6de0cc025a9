"""Tokens that overflow the static range: clamped, or quantized by a scale and an offset of their own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import make_matrix, matrices
from kernels.linears import make_linear, tokens
from tilepress import kernels
from tilepress.kernels.op import linear_from_python

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def some_massive(shape, dtype=torch.float32):
    """Ordinary tokens, and every third one with a value that is far out of range."""
    x = tokens(shape)
    x[::3, 1] = 2000.0
    x[::6, 5] = -700.0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [*range(1, 34), 300])
def test_equal_bits(batch, dtype):
    linear = make_linear(make_matrix("gaussian", 130, 300))
    x = some_massive((batch, 300), dtype)
    assert torch.equal(linear.with_own_scales(x), linear.expected_with_own_scales(x))
    assert torch.equal(linear_from_python(x, *linear.operands, linear.weight_sums), linear.expected_with_own_scales(x))


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 9), st.sampled_from(DTYPES), st.sampled_from([1e-4, 0.003, 0.02, 0.05]))
def test_any_range(matrix, batch, dtype, scale):
    linear = make_linear(matrix, scale=scale)
    x = tokens((batch, matrix.shape[1]), dtype)
    assert torch.equal(linear.with_own_scales(x), linear.expected_with_own_scales(x))


def test_tokens_within_the_range_are_as_without():
    linear = make_linear(make_matrix("gaussian", 40, 70), scale=0.05)
    linear.input_offset.fill_(3)
    x = tokens((9, 70))
    assert torch.equal(linear.with_own_scales(x), linear(x))


def test_a_massive_token_keeps_its_precision():
    """Clamped it is wrong by most of its size; with its own scale by less than a twentieth."""
    linear = make_linear(make_matrix("gaussian", 64, 256), scale=0.03)
    linear.input_offset.zero_()
    linear.quant_bias.zero_()
    x = tokens((1, 256))
    x[0, 7] = 400.0
    exact = (x @ linear.matrix.float().T) * (linear.deq_scale / linear.input_scale)
    error = (linear.with_own_scales(x) - exact).norm() / exact.norm()
    assert error < 0.05
    assert (linear(x) - exact).norm() / exact.norm() > 0.5


def test_the_bias_keeps_its_scale():
    """quant_bias holds the bias beside the static offset's share; a token of zeros and one value shows it alone."""
    linear = make_linear(make_matrix("zero", 16, 32))
    x = torch.zeros(1, 32)
    x[0, 0] = 1e6
    assert torch.equal(linear.with_own_scales(x), linear.quant_bias.float() * linear.deq_scale[None])


def test_tokens_without_a_normal_scale_are_clamped():
    linear = make_linear(make_matrix("gaussian", 40, 70))
    for value in (torch.inf, -torch.inf, 3e38):
        x = tokens((2, 70))
        x[0, 0], x[0, 1] = value, -value
        assert torch.equal(linear.with_own_scales(x), linear.expected_with_own_scales(x))
        assert torch.equal(linear.with_own_scales(x)[0], linear(x)[0])


def test_not_a_number_does_not_overflow():
    linear = make_linear(make_matrix("gaussian", 40, 70), scale=1.0)
    linear.input_offset.zero_()
    x = tokens((2, 70))
    x[0, 3] = torch.nan
    assert torch.equal(linear.with_own_scales(x), linear(x))


@pytest.mark.parametrize("call", [kernels.linear, linear_from_python], ids=["native", "from Python"])
def test_sums_that_do_not_fit(call):
    linear = make_linear(make_matrix("gaussian", 40, 70))
    for sums in (linear.weight_sums[:39], linear.weight_sums.float(), linear.weight_sums.repeat(2)[::2]):
        with pytest.raises(ValueError, match=r"weight_sums is .*int32 \[40\], contiguous, is needed"):
            dataclasses.replace(linear, call=lambda *tensors, s=sums: call(*tensors, s))(tokens((2, 70)))
