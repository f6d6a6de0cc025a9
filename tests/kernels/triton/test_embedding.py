"""Rows of a compressed table, looked up on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from int8_matrices import make_matrix
from kernels.triton.encodings import operands
from tilepress.codec import encode, reference
from tilepress.kernels.triton.embedding import embed


def table(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """int8 [rows, columns], and a scale for each row."""
    return torch.from_numpy(make_matrix("gaussian with outliers", rows, columns)), torch.rand(rows)


@pytest.mark.parametrize("tiling", [(8, 8), (3, 5)])
def test_rows_times_their_scales(tiling: tuple[int, int]) -> None:
    matrix, scale = table(70, 270)
    stored = operands(reference.encode(matrix.numpy(), *tiling))
    ids = torch.tensor([[0, 69], [17, 63]])
    assert torch.equal(embed(ids.T, *stored, scale, 270), (matrix.float() * scale[:, None])[ids.T])


def test_no_ids_and_a_single_one() -> None:
    matrix, scale = table(20, 40)
    stored = operands(encode(matrix.numpy()))
    assert torch.equal(embed(torch.tensor(5), *stored, scale, 40), matrix[5].float() * scale[5])
    assert embed(torch.empty(2, 0, dtype=torch.int64), *stored, scale, 40).shape == (2, 0, 40)


def test_ids_that_are_none_and_damage_give_not_a_number() -> None:
    matrix, scale = table(150, 40)
    compressed = encode(matrix.numpy())
    weight, index, info = operands(compressed)
    weight[reference.parse(compressed)[1].header] ^= 1
    rows = embed(torch.tensor([-1, 3, 150, 129]), weight, index, info, scale, 40)
    assert rows[[0, 2, 3]].isnan().all()
    assert torch.equal(rows[1], matrix[3].float() * scale[3])


def test_ids_of_another_type() -> None:
    matrix, scale = table(20, 40)
    with pytest.raises(ValueError, match=r"ids is torch.int32 \[1\]; torch.int64 is needed"):
        embed(torch.zeros(1, dtype=torch.int32), *operands(encode(matrix.numpy())), scale, 40)
