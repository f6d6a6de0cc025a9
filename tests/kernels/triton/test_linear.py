"""The product for CUDA tensors against its definition on the plain matrix: the bits that the CPU gives too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from int8_matrices import make_matrix
from kernels.linears import Linear, make_linear, tokens
from kernels.triton.encodings import TILINGS, in_widths, matrices_in_all_widths
from tilepress.codec import reference
from tilepress.kernels.triton import large_batch
from tilepress.kernels.triton.large_batch import choose_blocks
from tilepress.kernels.triton.linear import linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CLAMP = torch.empty(0, dtype=torch.int32)
# On both sides of the border between the two ways to multiply.
BATCHES = [1, 16, 17]


def assert_exact(case: Linear, x: Tensor) -> None:
    """With tokens that overflow clamped, and by scales of their own."""
    for weight_sums, expected in ((CLAMP, case.expected(x)), (case.weight_sums, case.expected_with_own_scales(x))):
        y = linear(x, *case.operands, weight_sums)
        assert y.dtype == expected.dtype
        assert torch.equal(y, expected)


def some_massive(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Ordinary tokens, and every third one with a value that is far out of range."""
    x = tokens(shape)
    x[::3, 1] = 2000.0
    return x.to(dtype)


@pytest.mark.parametrize(("batch", "dtype"), list(zip(BATCHES, DTYPES, strict=True)), ids=str)
def test_several_tiles_down_and_across(batch: int, dtype: torch.dtype) -> None:
    assert_exact(make_linear(make_matrix("gaussian with outliers", 130, 270)), some_massive((batch, 270), dtype))


@pytest.mark.parametrize(("batch", "dtype"), [(2, torch.float16), (40, torch.float32), (40, torch.bfloat16)], ids=str)
def test_every_type_of_activation(batch: int, dtype: torch.dtype) -> None:
    assert_exact(make_linear(make_matrix("gaussian", 33, 70)), some_massive((batch, 70), dtype))


@pytest.mark.parametrize(("tiling", "shape"), TILINGS)
def test_other_tilings(tiling: tuple[int, int], shape: tuple[int, int]) -> None:
    matrix = make_matrix("gaussian with outliers", *shape)
    case = make_linear(matrix, reference.encode(matrix, *tiling))
    x = tokens((3, shape[1]))
    assert torch.equal(linear(x, *case.operands, CLAMP), case.expected(x))


def test_levels_of_several_widths() -> None:
    for widths, matrix in list(matrices_in_all_widths())[::9]:
        case = make_linear(matrix, in_widths(matrix, widths))
        x = tokens((2, 70))
        assert torch.equal(linear(x, *case.operands, CLAMP), case.expected(x))


def test_panels_of_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_batch, "PANEL_BYTES", 128 * 128)
    case = make_linear(make_matrix("gaussian", 270, 40))
    x = tokens((20, 40))
    assert torch.equal(linear(x, *case.operands, CLAMP), case.expected(x))


def test_blocks_fit_the_shared_memory() -> None:
    for shared in (64 << 10, 96 << 10, 163 << 10, 227 << 10):
        for batch in (17, 33, 64, 100, 5000):
            blocks = choose_blocks(batch, shared)
            assert (blocks.tokens + large_batch.BLOCK_ROWS) * blocks.columns * blocks.stages <= shared
    assert choose_blocks(17, 96 << 10).tokens == 32
    assert choose_blocks(2048, 227 << 10).tokens == 128


@pytest.mark.parametrize("batch", [1, 20])
def test_extremes(batch: int) -> None:
    """Ties, infinities, not-a-number, values next to 0 and the largest; sums that wrap."""
    case = make_linear(make_matrix("incompressible", 40, 64), scale=0.25)
    case.quant_bias[::2] = 2**31 - 1
    extremes = [0.0, -0.0, 1e-45, -1e-38, 1e38, -3e38, torch.inf, -torch.inf, torch.nan, -torch.nan]
    x = torch.tensor([extremes[i % 10] if i % 3 else 0.125 * (i - 32) for i in range(64)]).repeat(batch, 1)
    x[1::2] = torch.arange(-32, 32) * 0.125
    for dtype in DTYPES:
        assert_exact(case, x.to(dtype))


def test_leading_dimensions_strides_and_no_tokens() -> None:
    case = make_linear(make_matrix("gaussian", 16, 32))
    x = tokens((2, 1, 2, 32))
    assert torch.equal(linear(x, *case.operands, CLAMP), case.expected(x))
    assert torch.equal(linear(x[0, 0, 0], *case.operands, CLAMP), case.expected(x[0, 0, 0]))
    strided = tokens((32, 3)).T
    assert torch.equal(linear(strided, *case.operands, CLAMP), case.expected(strided))
    assert linear(torch.empty(0, 32), *case.operands, CLAMP).shape == (0, 16)


@pytest.mark.parametrize("batch", [2, 20])
def test_damage_gives_not_a_number_in_the_rows_of_the_tile(batch: int) -> None:
    """The device cannot raise an error without the host waiting for it."""
    matrix = make_matrix("gaussian", 300, 40)
    case = make_linear(matrix)
    x = tokens((batch, 40))
    case.weight[reference.parse(reference.encode(matrix))[1].header] ^= 1
    y = linear(x, *case.operands, CLAMP)
    assert y[:, 128:256].isnan().all()
    assert torch.equal(y[:, :128], case.expected(x)[:, :128])
    assert torch.equal(y[:, 256:], case.expected(x)[:, 256:])


@pytest.mark.parametrize("batch", [2, 20])
def test_info_of_another_matrix_gives_not_a_number(batch: int) -> None:
    case = make_linear(make_matrix("gaussian", 40, 40))
    case.info[3] = 39
    assert linear(tokens((batch, 40)), *case.operands, CLAMP).isnan().all()


def test_operands_that_do_not_fit() -> None:
    case = make_linear(make_matrix("gaussian", 40, 40))
    x = tokens((2, 40))
    with pytest.raises(ValueError, match="float32, bfloat16 or float16"):
        linear(x.double(), *case.operands, CLAMP)
    with pytest.raises(ValueError, match=r"weight_sums is .*int32 \[40\], contiguous, is needed"):
        linear(x, *case.operands, case.weight_sums[:39])
    with pytest.raises(ValueError, match=r"quant_bias is torch.float32"):
        linear(x, *case.operands[:-1], case.quant_bias.float(), CLAMP)
    shifted = torch.from_numpy(np.pad(case.weight.numpy(), (4, 0)))[4:]
    with pytest.raises(ValueError, match=r"weight begins at .*; a multiple of 16 is needed"):
        linear(x, shifted, *case.operands[1:], CLAMP)
