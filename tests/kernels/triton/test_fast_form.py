"""The fast form on a CUDA device: products and lookups against their definitions, bit for bit, and damage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_matrices import make_matrix, matrices
from kernels.linears import Linear, make_linear, tokens
from kernels.triton.fast_forms import device_form, of_all_widths
from tilepress import codec
from tilepress.kernels.triton.embedding import embed
from tilepress.kernels.triton.fast_form import few_tokens
from tilepress.kernels.triton.fast_form.form import to_device_form
from tilepress.kernels.triton.linear import linear

CLAMP = torch.empty(0, dtype=torch.int32)


def product(case: Linear, x: torch.Tensor, weight_sums: torch.Tensor = CLAMP) -> torch.Tensor:
    return linear(x, *device_form(case.matrix.numpy()), *case.operands[3:], weight_sums)


@pytest.mark.parametrize("batch", [1, 2, 16, 17, 33])
def test_tiles_of_all_widths_give_the_bits_of_the_definition(batch: int) -> None:
    case = make_linear(of_all_widths(300, 600))
    x = tokens((batch, 600))
    x[::3, 1] = 2000.0
    assert torch.equal(product(case, x), case.expected(x))
    assert torch.equal(product(case, x, case.weight_sums), case.expected_with_own_scales(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_types_of_activations(batch: int, dtype: torch.dtype) -> None:
    case = make_linear(make_matrix("gaussian with outliers", 40, 70))
    x = tokens((batch, 70)).to(dtype)
    assert torch.equal(product(case, x), case.expected(x))


@settings(max_examples=10, deadline=None)  # the interpreter is slow
@given(matrices, st.sampled_from([1, 2, 17]))
def test_any_matrix(matrix: np.ndarray, batch: int) -> None:
    case = make_linear(matrix)
    x = tokens((batch, matrix.shape[1]))
    assert torch.equal(product(case, x), case.expected(x))


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_rows_are_added_up_from_any_number_of_parts(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_tokens, "at_once", lambda device, a_multiprocessor: parts)
    case = make_linear(of_all_widths(40, 1100))
    for batch in (1, 5):
        x = tokens((batch, 1100))
        assert torch.equal(product(case, x), case.expected(x))


def test_lookup_gives_rows_and_not_a_number_for_ids_that_are_none() -> None:
    matrix = of_all_widths(300, 600)
    scale = torch.rand(300) + 0.1
    rows = embed(torch.tensor([[0, 299], [-1, 300], [150, 128]]), *device_form(matrix), scale, 600)
    expected = torch.from_numpy(matrix).float() * scale[:, None]
    assert torch.equal(rows[0], expected[[0, 299]])
    assert rows[1].isnan().all()
    assert torch.equal(rows[2], expected[[150, 128]])


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("damage", ["offset", "width", "patch", "start"])
def test_damage_gives_not_a_number_in_its_rows_and_nowhere_else(batch: int, damage: str) -> None:
    case = make_linear(of_all_widths(300, 600))
    weight, index, info = device_form(case.matrix.numpy())
    tiles = 9
    first_patch = 2 * tiles + 301 + int(index[2 * tiles + 130])  # of row 130
    entry = {"offset": 2 * 3, "width": 2 * 3 + 1, "patch": first_patch, "start": 2 * tiles + 130}[damage]
    index[entry] = {"offset": 1 << 30, "width": 9, "patch": 600 << 9, "start": 2**31 - 10}[damage]
    x = tokens((batch, 600))
    y, expected = linear(x, weight, index, info, *case.operands[3:], CLAMP), case.expected(x)
    assert y[:, 130].isnan().all() or damage == "start"  # of which nothing is read that is not a patch
    assert torch.equal(y[:, :128], expected[:, :128])
    assert torch.equal(y[:, 256:], expected[:, 256:])
    scale = torch.ones(300)
    rows = embed(torch.tensor([130, 127, 256]), weight, index, info, scale, 600)
    assert rows[0].isnan().all() or damage == "start"
    assert torch.equal(rows[1:], case.matrix[[127, 256]].float())


@pytest.mark.parametrize("batch", [2, 20])
def test_info_of_another_matrix_gives_not_a_number(batch: int) -> None:
    case = make_linear(make_matrix("gaussian", 40, 40))
    weight, index, info = device_form(case.matrix.numpy())
    info[3] = 39
    assert linear(tokens((batch, 40)), weight, index, info, *case.operands[3:], CLAMP).isnan().all()


def test_operands_that_do_not_fit() -> None:
    case = make_linear(make_matrix("gaussian", 40, 40))
    weight, index, info = device_form(case.matrix.numpy())
    with pytest.raises(ValueError, match=r"index is torch.int32 \[42\]; \[43\] or more is needed"):
        linear(tokens((1, 40)), weight, index[:42], info, *case.operands[3:], CLAMP)
    with pytest.raises(ValueError, match=r"version 0x54500001 with 40 columns has no form for devices"):
        to_device_form(codec.encode(case.matrix.numpy()))
