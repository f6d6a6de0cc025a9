"""Rounding with error feedback, against the optimal brain surgeon written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tilepress.errors import QuantizationError
from tilepress.quantize.hessian import factorize
from tilepress.quantize.rate import code_lengths, magnitude_counts
from tilepress.quantize.rounding import round_weights

DAMPING = 0.01


def correlated_inputs(tokens: int, k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 1, k)[torch.randperm(k, generator=generator)]
    return torch.randn(tokens, k, generator=generator) @ (
        torch.diag(scale) + 0.3 * torch.randn(k, k, generator=generator)
    )


def surgeon(weight: Tensor, steps: Tensor, hessian: Tensor, lengths: Tensor) -> Tensor:
    """Column by column: decide, spread the error by the inverse Hessian, eliminate the column from it. In float64."""
    n, k = weight.shape
    damped = hessian.double() + DAMPING * hessian.diagonal().double().mean() * torch.eye(k, dtype=torch.float64)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()

    costs = []
    inverse = damped.inverse()
    for j in order:
        costs.append(1.0 / float(inverse[j, j]))
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    mean_cost = sum(costs) / k

    inverse = damped.inverse()
    remaining = weight.double().clone()
    result = torch.zeros(n, k, dtype=torch.int8)
    for j, cost in zip(order, costs, strict=True):
        for row in range(n):
            w, step = float(remaining[row, j]), float(steps[row])
            nearest = min(round(abs(w) / step), 127)

            def loss(a: int, w: float = w, step: float = step, cost: float = cost) -> float:
                bits = float(lengths[a])
                rate = 2 * math.log(2) / 12 * step**2 * mean_cost * bits
                return (abs(w) - a * step) ** 2 * cost + rate

            best = min((nearest, max(nearest - 1, 0), 0), key=loss)
            result[row, j] = int(math.copysign(best, w))
        error = remaining[:, j] - result[:, j] * steps.double()
        remaining -= torch.outer(error, inverse[j] / inverse[j, j])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return result


@pytest.mark.parametrize("k", [24, 150])  # 150 columns are three blocks of lazy updates
def test_equals_the_optimal_brain_surgeon_written_out(k: int) -> None:
    inputs = correlated_inputs(600, k)
    hessian = inputs.T @ inputs / len(inputs)
    weight = torch.randn(6, k, generator=torch.Generator().manual_seed(1))
    steps = torch.linspace(0.1, 0.5, 6)
    lengths = code_lengths(magnitude_counts((weight / steps[:, None]).round()))

    rounded = round_weights(weight, steps, factorize(hessian, DAMPING, "here"), lengths)

    expected = surgeon(weight, steps, hessian, lengths)
    # Float32 against float64: a decision on the edge may fall the other way, and moves what comes after it.
    assert (rounded == expected).float().mean() > 0.99


def test_has_less_output_error_than_rounding_to_nearest_at_the_same_step() -> None:
    inputs = correlated_inputs(600, 96)
    hessian = inputs.T @ inputs / len(inputs)
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(2))
    steps = torch.full((16,), 0.4)
    lengths = code_lengths(magnitude_counts((weight / 0.4).round()))

    rounded = round_weights(weight, steps, factorize(hessian, DAMPING, "here"), lengths) * 0.4
    nearest = (weight / 0.4).round() * 0.4

    def output_error(candidate: Tensor) -> float:
        return float((inputs @ (candidate - weight).T).square().mean())

    assert output_error(rounded) < 0.7 * output_error(nearest)


def test_makes_more_zeros_than_rounding_to_nearest() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    steps = torch.full((16,), 0.7)
    lengths = code_lengths(magnitude_counts((weight / 0.7).round()))

    rounded = round_weights(weight, steps, factorize(torch.eye(64), DAMPING, "here"), lengths)

    assert (rounded == 0).sum() > ((weight / 0.7).round() == 0).sum()


def test_stays_within_127_where_feedback_pushes_beyond() -> None:
    inputs = correlated_inputs(50, 64)
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(4))
    steps = weight.abs().amax(dim=1) / 127

    rounded = round_weights(weight, steps, factorize(inputs.T @ inputs, DAMPING, "here"), torch.ones(128))

    assert rounded.dtype == torch.int8
    assert int(rounded.min()) >= -127


def test_factor_reproduces_the_damped_hessian() -> None:
    inputs = correlated_inputs(300, 40)
    hessian = inputs.T @ inputs / 300

    factor = factorize(hessian, DAMPING, "here")

    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(40)
    torch.testing.assert_close(factor.upper @ factor.upper.T, damped[factor.order][:, factor.order])
    inverse_of_last = damped[factor.order][:, factor.order].inverse()
    assert float(factor.cost[0]) == pytest.approx(1 / float(inverse_of_last[0, 0]), rel=1e-3)
    assert factor.order[0] == hessian.diagonal().argmax()


def test_a_rank_deficient_hessian_is_damped_until_it_can_be_factored() -> None:
    ones = torch.ones(32, 32)  # one direction only, and too little damping to make up for rounding errors

    factor = factorize(ones, 1e-9, "here")

    assert factor.cost.isfinite().all()
    assert (factor.cost > 0).all()


@pytest.mark.parametrize(
    ("hessian", "message"),
    [
        (
            -torch.eye(4)
            + 1.5 * torch.outer(torch.ones(4), torch.ones(4))
            - torch.diag(torch.tensor([9.0, 0, 0, -99])),
            "not positive definite",
        ),
        (torch.zeros(4, 4), "all zero"),
        (torch.full((4, 4), float("nan")), "not finite"),
    ],
)
def test_a_hopeless_hessian_is_refused_by_name(hessian: Tensor, message: str) -> None:
    with pytest.raises(QuantizationError, match=message) as refusal:
        factorize(hessian, 1e-6, "model.layers.3.down")
    assert "model.layers.3.down" in str(refusal.value)
