"""The other methods that quality.py compares with, beside column-by-column versions that invert the Hessian."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.quality import rounding_peers as quality_peers
from benchmarks.quality.rounding_peers import Matrix
from torch import Tensor

from tilepress import codec
from tilepress.quantize.statistics.hessian import factorize


@pytest.fixture
def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(160, 160, generator=generator) / 160**0.5
    return torch.randn(400, 160, generator=generator) @ (torch.eye(160) + mixing)


@pytest.fixture
def matrix(inputs: Tensor) -> Matrix:
    weight = 0.1 * torch.randn(24, 160, generator=torch.Generator().manual_seed(2))
    factor = factorize(inputs.T @ inputs / len(inputs), quality_peers.DAMPING, "w")
    return Matrix(("a.weight", "b.weight"), (16, 8), weight, factor)


def joined(quantized: quality_peers.Quantized) -> Tensor:
    return torch.cat([quantized.weights["a.weight"], quantized.weights["b.weight"]])


def int8_steps(matrix: Matrix) -> Tensor:
    return matrix.weight.abs().amax(dim=1, keepdim=True).double() / 127


def eliminate(matrix: Matrix, inputs: Tensor, quantize: Callable[[int, Tensor, list[float]], Tensor]) -> Tensor:
    """Optimal brain surgeon: after each column the error goes to all that are left, and the column leaves the inverse.

    quantize: gets the position in the order, what is left of the weight with its columns in that order, and the
    diagonal of the inverse at each column's turn.
    """
    order = matrix.factor.order
    hessian = (inputs.T @ inputs / len(inputs)).double()
    damping = quality_peers.DAMPING * hessian.diagonal().mean()
    inverse = torch.linalg.inv(hessian + damping * torch.eye(len(hessian)))[order][:, order]
    turns, left = [], inverse.clone()
    for j in range(len(order)):
        turns.append(float(left[j, j]))
        left = left - torch.outer(left[:, j], left[j]) / left[j, j]
    weight = matrix.weight.double()[:, order].clone()
    result = torch.empty_like(weight)
    for j in range(len(order)):
        result[:, j] = quantize(j, weight, turns)
        error = (weight[:, j] - result[:, j]) / inverse[j, j]
        weight[:, j + 1 :] -= torch.outer(error, inverse[j, j + 1 :])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    in_place = torch.empty_like(result)
    in_place[:, order] = result
    return in_place.float()


def differing(a: Tensor, b: Tensor) -> float:
    """Share of the weights that were rounded another way: a few on the edge may be, in float32."""
    return float(((a - b).abs() > 1e-4 * b.abs().max()).float().mean())


def test_gptq_meets_the_size_with_the_integers_of_the_brain_surgeon(matrix: Matrix, inputs: Tensor) -> None:
    made = quality_peers.gptq([matrix], 4.5)

    ours = joined(made)
    assert made.bits == pytest.approx(4.5, abs=0.1)  # 24 x 160 weights: a step of the factor shows in whole bytes
    for row in range(24):
        assert len((ours[row] / matrix.weight[row].std()).unique()) < 60, "one step a row"
    factor = float((ours[0][ours[0] != 0].abs().min() / matrix.weight[0].std()).double())
    steps = factor * matrix.weight.std(dim=1, keepdim=True).double()
    expected = eliminate(matrix, inputs, lambda j, left, _: (left[:, j] / steps[:, 0]).round() * steps[:, 0])
    assert differing(ours, expected) < 0.005
    assert differing(ours, joined(quality_peers.nearest([matrix], 4.5))) > 0.05


def test_sparsegpt_prunes_half_of_each_block_by_what_it_costs(matrix: Matrix, inputs: Tensor) -> None:
    made = quality_peers.sparsegpt_int8([matrix])

    steps = int8_steps(matrix)
    kept = torch.empty(0)

    def quantize(j: int, left: Tensor, turns: list[float]) -> Tensor:
        nonlocal kept
        if j % quality_peers.BLOCK == 0:
            block = slice(j, min(j + quality_peers.BLOCK, left.shape[1]))
            cost = left[:, block].square() / torch.tensor(turns[block])
            kept = cost > cost.flatten().sort().values[cost.numel() // 2 - 1]
        rounded = (left[:, j] / steps[:, 0]).round().clamp(-127, 127) * steps[:, 0]
        return torch.where(kept[:, j % quality_peers.BLOCK], rounded, 0.0)

    assert differing(joined(made), eliminate(matrix, inputs, quantize)) < 0.005
    assert 0.5 <= float((joined(made) == 0).float().mean()) < 0.53


def test_int4_has_sixteen_levels_in_each_group_of_columns(matrix: Matrix, inputs: Tensor) -> None:
    made = quality_peers.gptq_int4([matrix])

    columns = matrix.factor.order

    def quantize(j: int, left: Tensor, _: list[float]) -> Tensor:
        start = int(columns[j]) // 128 * 128
        group = matrix.weight[:, start : start + 128].double()
        low, high = group.amin(dim=1).clamp(max=0), group.amax(dim=1).clamp(min=0)
        step = (high - low) / 15
        zero = (-low / step).round()
        return ((left[:, j] / step).round() + zero).clamp(0, 15).sub(zero) * step

    assert differing(joined(made), eliminate(matrix, inputs, quantize)) < 0.005
    assert made.bits == pytest.approx(4 + 20 * 2 / 160)  # groups of 128 and of the 32 columns that are left
    for row in joined(made):
        assert len(row[:128].unique()) <= 16


def test_int8_is_the_nearest_and_its_size_is_that_of_the_codec(matrix: Matrix) -> None:
    made = quality_peers.nearest_int8([matrix])

    integers = (matrix.weight / int8_steps(matrix).float()).round()
    assert torch.allclose(joined(made), integers * int8_steps(matrix).float())
    assert made.bits == 8 * codec.encode_entropy(integers.to(torch.int8).numpy()).nbytes / integers.numel()
    assert set(made.weights) == {"a.weight", "b.weight"}
    assert made.weights["b.weight"].shape == (8, 160)
