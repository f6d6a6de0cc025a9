"""Rounding with error feedback, against the optimal brain surgeon written out and bit by bit against plain code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from quantize.rounding.reference_rounding import round_plainly
from quantize.rounding.rounding_cases import DAMPING, SHAPES, correlated_inputs, rounding_case
from tilepress import _native
from tilepress.errors import QuantizationError
from tilepress.quantize.rate.tile_cost import coded_bits, strip_counts, tile_rate
from tilepress.quantize.rounding.gptq import round_in_torch, round_weights
from tilepress.quantize.statistics.hessian import HessianFactor, factorize


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

            best = min((nearest, max(nearest - 1, 0), max(nearest - 2, 0), 0), key=loss)
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
    lengths = tile_rate(strip_counts((weight / steps[:, None]).round()))[1]

    rounded = round_weights(weight, steps, factorize(hessian, DAMPING, "here"), lengths)

    expected = surgeon(weight, steps, hessian, lengths[0])
    # Float32 against float64: a decision on the edge may fall the other way, and moves what comes after it.
    assert (rounded == expected).float().mean() > 0.99


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_integer_is_that_of_plain_code(n: int, k: int, threads: int) -> None:
    weight, steps, factor, rate, tables = rounding_case(n, k, seed=n)
    torch.set_num_threads(threads)
    for lengths in (tables, tables[0]):
        expected = round_plainly(weight, steps, factor, rate, lengths)
        assert torch.equal(round_weights(weight, steps, factor, lengths), expected)


def test_elsewhere_than_on_the_cpu_the_integers_are_the_same_up_to_the_order_of_sums() -> None:
    for lengths_of_all in (False, True):
        weight, steps, factor, rate, tables = rounding_case(300, 150, seed=1)
        lengths = tables[0] if lengths_of_all else tables

        found = round_in_torch(weight, steps, factor, rate, lengths)

        # A decision on the edge moves what comes after it in its row: so whole rows are compared.
        equal = (found == round_weights(weight, steps, factor, lengths)).all(dim=1)
        assert equal.float().mean() > 0.97


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_rounds_alike() -> None:
    weight, steps, factor, _, lengths = rounding_case(300, 150, seed=1)
    there = HessianFactor(factor.order.cuda(), factor.upper.cuda())

    found = round_weights(weight.cuda(), steps.cuda(), there, lengths.cuda()).cpu()

    assert (found == round_weights(weight, steps, factor, lengths)).float().mean() > 0.97


def test_each_128_rows_follow_their_own_table() -> None:
    weight, steps, factor, _, _ = rounding_case(200, 32, seed=5)
    zeros_are_cheap = torch.full((128,), 40.0)
    zeros_are_cheap[0] = 0.0
    nothing_is = torch.zeros(128)

    rounded = round_weights(weight, steps, factor, torch.stack([zeros_are_cheap, nothing_is]))

    assert torch.equal(rounded[:128], round_weights(weight[:128], steps[:128], factor, zeros_are_cheap))
    assert torch.equal(rounded[128:], round_weights(weight[128:], steps[128:], factor, nothing_is))
    assert (rounded[:128] == 0).float().mean() > 2 * (rounded[128:] == 0).float().mean()


def native_arguments() -> dict[str, np.ndarray | int]:
    weight, steps, factor, rate, lengths = rounding_case(130, 24, seed=0)
    arrays = {
        "weight": weight,
        "steps": steps,
        "order": factor.order,
        "feedback": factor.feedback,
        "rate": rate,
        "lengths": lengths,
        "out": torch.zeros(130, 24, dtype=torch.int8),
    }
    return {name: array.contiguous().numpy() for name, array in arrays.items()} | {"threads": 1}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("steps", (129,), r"steps has to be \[130\]"),
        ("order", (23,), r"order has to be \[24\]"),
        ("feedback", (24, 23), r"feedback has to be \[24, 24\]"),
        ("rate", (25,), r"rate has to be \[24\]"),
        ("lengths", (3, 128), r"lengths has to be \[2, 128\]"),
        ("lengths", (1, 127), r"lengths has to be \[1, 128\]"),
        ("out", (130, 23), r"out has to be \[130, 24\]"),
        ("weight", (0, 24), r"a matrix to round has 1 to"),
    ],
)
def test_arrays_of_another_shape_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    arguments = native_arguments()
    arguments[name] = np.resize(arguments[name], shape)
    with pytest.raises(ValueError, match=message):
        _native.round_weights(**arguments)


@pytest.mark.parametrize("name", ["weight", "steps", "feedback", "rate", "lengths"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    arguments = native_arguments()
    arguments[name].flat[-1] = value
    with pytest.raises(ValueError, match=f"{name} has values that are not finite"):
        _native.round_weights(**arguments)


def test_steps_that_are_not_positive_are_refused() -> None:
    arguments = native_arguments()
    arguments["steps"][7] = 0.0
    with pytest.raises(ValueError, match="steps have to be positive"):
        _native.round_weights(**arguments)


@pytest.mark.parametrize("column", [-1, 24, 3])
def test_an_order_that_is_no_permutation_is_refused(column: int) -> None:
    arguments = native_arguments()
    arguments["order"] = np.arange(24)
    arguments["order"][2] = column
    with pytest.raises(ValueError, match="order has to name every column once"):
        _native.round_weights(**arguments)


@pytest.mark.parametrize("name", ["weight", "feedback"])
def test_arrays_that_are_not_contiguous_or_not_float32_are_refused(name: str) -> None:
    for array in (native_arguments()[name].T, native_arguments()[name].astype(np.float64)):
        with pytest.raises(TypeError):
            _native.round_weights(**native_arguments() | {name: array})


def test_sums_that_overflow_stay_integers() -> None:
    arguments = native_arguments()
    arguments["weight"] *= 1e37
    arguments["feedback"] *= 1e37

    _native.round_weights(**arguments)

    assert int(np.abs(arguments["out"].astype(int)).max()) == 127


def test_has_less_output_error_than_rounding_to_nearest_at_the_same_step() -> None:
    inputs = correlated_inputs(600, 96)
    hessian = inputs.T @ inputs / len(inputs)
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(2))
    steps = torch.full((16,), 0.4)
    lengths = tile_rate(strip_counts((weight / 0.4).round()))[1]

    rounded = round_weights(weight, steps, factorize(hessian, DAMPING, "here"), lengths) * 0.4
    nearest = (weight / 0.4).round() * 0.4

    def output_error(candidate: Tensor) -> float:
        return float((inputs @ (candidate - weight).T).square().mean())

    assert output_error(rounded) < 0.7 * output_error(nearest)


def test_makes_more_zeros_than_rounding_to_nearest_where_they_are_short() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    steps = torch.full((16,), 0.7)
    lengths = torch.full((128,), 4.0)
    lengths[0] = 1.0

    rounded = round_weights(weight, steps, factorize(torch.eye(64), DAMPING, "here"), lengths)

    assert (rounded == 0).sum() > 1.1 * ((weight / 0.7).round() == 0).sum()


def test_takes_fewer_bits_than_rounding_to_nearest() -> None:
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(3))
    steps = torch.full((128,), 0.4)
    nearest = (weight / 0.4).round()

    lengths = tile_rate(strip_counts(nearest))[1]
    rounded = round_weights(weight, steps, factorize(torch.eye(256), DAMPING, "here"), lengths)

    assert coded_bits(rounded) < coded_bits(nearest) - 0.03


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
        (torch.full((4, 4), float("nan")), "not finite"),
    ],
)
def test_a_hopeless_hessian_is_refused_by_name(hessian: Tensor, message: str) -> None:
    with pytest.raises(QuantizationError, match=message) as refusal:
        factorize(hessian, 1e-6, "model.layers.3.down")
    assert "model.layers.3.down" in str(refusal.value)


def test_columns_that_are_never_used_cost_next_to_nothing() -> None:
    factor = factorize(torch.zeros(4, 4), 0.01, "model.layers.3.down")
    assert sorted(factor.order.tolist()) == [0, 1, 2, 3]
    assert (factor.cost > 0).all()
    assert (factor.cost < 1e-9).all()
    assert torch.equal(factor.feedback, torch.eye(4))
