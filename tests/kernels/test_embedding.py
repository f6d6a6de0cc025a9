"""Looking tokens up in a compressed table."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import Tensor

from int8_matrices import DISTRIBUTIONS, make_matrix, matrices_of_every_width
from tilepress.codec import reference
from tilepress.errors import BitstreamError
from tilepress.kernels import embed

Operands = tuple[Tensor, Tensor, Tensor, Tensor, int]


def make_table(matrix: np.ndarray, tiling: tuple[int, int] = (8, 8)) -> tuple[Tensor, Operands]:
    """All rows times their scales, and the operands behind ids."""
    stored = reference.encode(matrix, *tiling)
    scale = torch.rand(len(matrix), generator=torch.Generator().manual_seed(0))
    parts = [torch.from_numpy(np.array(part)) for part in (stored.weight, stored.index, stored.info)]
    return torch.from_numpy(matrix).float() * scale[:, None], (*parts, scale, matrix.shape[1])


@pytest.fixture
def table() -> tuple[Tensor, Operands]:
    return make_table(make_matrix("gaussian with outliers", 300, 530))


def test_rows_are_the_decoded_ones_times_their_scales(table: tuple[Tensor, Operands]) -> None:
    rows, operands = table
    ids = torch.tensor([[0, 299, 17], [17, 128, 127]])
    looked_up = embed(ids, *operands)
    assert looked_up.dtype == torch.float32
    assert torch.equal(looked_up, rows[ids])
    assert torch.equal(embed(ids.T, *operands), rows[ids.T])
    assert torch.equal(embed(torch.tensor(5), *operands), rows[5])
    assert embed(torch.empty(2, 0, dtype=torch.int64), *operands).shape == (2, 0, 530)


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_every_kind_of_table(kind: str) -> None:
    rows, operands = make_table(make_matrix(kind, 270, 300))
    assert torch.equal(embed(torch.arange(270), *operands), rows)


def test_every_width() -> None:
    for matrix in matrices_of_every_width():
        rows, operands = make_table(matrix)
        assert torch.equal(embed(torch.arange(len(matrix)), *operands), rows)


@pytest.mark.parametrize("tiling", [(1, 1), (64, 1), (1, 64), (3, 5)])
def test_every_tiling(tiling: tuple[int, int]) -> None:
    rows, operands = make_table(make_matrix("gaussian with outliers", 300, 530), tiling)
    assert torch.equal(embed(torch.arange(300), *operands), rows)


def test_it_is_an_operator_that_torch_can_trace(table: tuple[Tensor, Operands]) -> None:
    ids = torch.tensor([[3, 4]])
    torch.library.opcheck(torch.ops.tilepress.embed.default, (ids, *table[1]))


@pytest.mark.parametrize("token", [-1, 300, 2**40])
def test_ids_that_are_no_tokens(table: tuple[Tensor, Operands], token: int) -> None:
    with pytest.raises(IndexError, match=rf"ids holds {token}, but the embedding has rows 0 to 299"):
        embed(torch.tensor([0, token]), *table[1])


@pytest.mark.parametrize(
    ("place", "operand", "message"),
    [
        (0, torch.tensor([1], dtype=torch.int32), r"ids is torch\.int32 \[1\]"),
        (1, torch.zeros(64, dtype=torch.uint8), "weight is torch.uint8"),
        (2, torch.zeros(64, dtype=torch.int16), "index is torch.int16"),
        (3, torch.zeros(4, dtype=torch.int64), r"info is torch.int64 \[4\]"),
        (4, torch.ones(300, dtype=torch.float64), "weight_scale is torch.float64"),
        (4, torch.ones(299), "300 x 530, but weight_scale has 299 entries"),
        (5, 529, "hidden is 529"),
    ],
)
def test_operands_that_do_not_fit(
    table: tuple[Tensor, Operands], place: int, operand: Tensor | int, message: str
) -> None:
    operands = [torch.tensor([1]), *table[1]]
    operands[place] = operand
    with pytest.raises(ValueError, match=message):
        embed(*operands)


def test_damage_is_found_where_it_is_looked_at(table: tuple[Tensor, Operands]) -> None:
    """All level-0 codes of the first strip of tile (1, 2) become escapes: rows 128 to 143."""
    rows, (weight, index, *others) = table
    entry = int(index.numpy().view(np.uint64)[5])
    width = (entry >> 48 & 15) - 1
    damaged = weight.clone()
    damaged[entry & 0xFFFFFFFFFFFF :][: 64 * width] = -1
    with pytest.raises(BitstreamError, match=r"tile \(1, 2\): the escapes of level 0"):
        embed(torch.tensor([130]), damaged, index, *others)
    sound = torch.tensor([0, 127, 144, 299])
    assert torch.equal(embed(sound, damaged, index, *others), rows[sound])
    with pytest.raises(BitstreamError, match=r"tile \(2, 2\): the tile reaches past the end"):
        embed(torch.tensor([299]), weight[:-64], index, *others)
    with pytest.raises(BitstreamError, match="index has 8 bytes"):
        embed(sound, weight, index[:8], *others)


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_random_damage_never_crashes(kind: str) -> None:
    _, operands = make_table(make_matrix(kind, 150, 270))
    rng = np.random.default_rng(0)
    for _ in range(60):
        parts = [part.clone() for part in operands[:3]]
        part = parts[rng.choice([0, 0, 1, 2])].view(torch.int8)
        for _ in range(rng.integers(1, 6)):
            part[int(rng.integers(len(part)))] ^= 1 << int(rng.integers(7))
        with contextlib.suppress(BitstreamError, ValueError):
            assert embed(torch.arange(150), *parts, *operands[3:]).shape == (150, 270)
