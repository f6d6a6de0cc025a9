"""Rounding with error feedback, against the optimal brain surgeon written out and bit by bit against plain code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from quantize.rounding.reference_rounding import nearest, round_plainly
from quantize.rounding.rounding_cases import (
    DAMPING,
    SHAPES,
    correlated_inputs,
    correlated_outputs,
    rounding_case,
)
from tilepress import _native
from tilepress.errors import QuantizationError
from tilepress.quantize.rate.tile_cost import coded_bits, strip_counts, tile_rate
from tilepress.quantize.rounding.gptq import round_in_blocks, round_weights
from tilepress.quantize.statistics.fisher import FisherFactor
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


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_integer_is_that_of_plain_code_where_errors_reach_other_rows(n: int, k: int, threads: int) -> None:
    weight, steps, factor, rate, lengths = rounding_case(n, k, seed=n)
    outputs = correlated_outputs(n, seed=k)
    torch.set_num_threads(threads)

    rounded = round_weights(weight, steps, factor, lengths, outputs)

    assert torch.equal(rounded, round_plainly(weight, steps, factor, rate, lengths, outputs))


def test_errors_of_rows_make_up_for_each_other_as_the_surgeon_does_it_for_the_kronecker_product() -> None:
    """Rows and columns as one vector whose Hessian is F x H, weight by weight: eliminated in float64."""
    n, k = 6, 8
    weight, steps, factor, rate, lengths = rounding_case(n, k, seed=3)
    outputs = correlated_outputs(n, seed=4)

    rounded = round_weights(weight, steps, factor, lengths[0], outputs)

    def whole(upper: Tensor) -> Tensor:
        return upper.double() @ upper.double().T

    inverse = torch.kron(whole(outputs.upper[0, :n, :n]), whole(factor.upper)).inverse()
    scaled = steps[outputs.order].double().repeat_interleave(k)
    remaining = weight[outputs.order][:, factor.order].double().flatten()
    expected = torch.zeros(n * k)
    for i in range(n * k):
        expected[i] = nearest((remaining[i] / scaled[i]).float().numpy(), lengths[0].numpy(), rate[i % k].numpy())
        error = remaining[i] - expected[i] * scaled[i]
        remaining -= error * inverse[i] / inverse[i, i]
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    assert torch.equal(rounded[outputs.order][:, factor.order].flatten().float(), expected)


def test_the_loss_of_correlated_outputs_is_less_than_with_rows_apart() -> None:
    weight, steps, factor, _, lengths = rounding_case(256, 96, seed=6)
    outputs = correlated_outputs(256, seed=7)
    hessian = factor.upper @ factor.upper.T  # in the order of the columns, as F is in that of the rows

    def loss(rounded: Tensor) -> float:
        error = (rounded * steps[:, None] - weight)[outputs.order][:, factor.order].view(-1, 128, 96)
        fisher = outputs.upper @ outputs.upper.transpose(1, 2)
        return float(((fisher @ error @ hessian) * error).sum())

    assert loss(round_weights(weight, steps, factor, lengths, outputs)) < 0.7 * loss(
        round_weights(weight, steps, factor, lengths)
    )


@pytest.mark.parametrize("apart", [True, False])
def test_elsewhere_than_on_the_cpu_the_integers_are_the_same_up_to_the_order_of_sums(apart: bool) -> None:
    for lengths_of_all in (False, True):
        weight, steps, factor, rate, tables = rounding_case(300, 150, seed=1)
        lengths = tables[0] if lengths_of_all else tables
        outputs = None if apart else correlated_outputs(300, seed=2)
        rows = None if outputs is None else (outputs.order, outputs.feedback(steps))

        found = round_in_blocks(weight, steps, factor, rate, lengths, rows)

        # A decision on the edge moves what comes after it.
        equal = found == round_weights(weight, steps, factor, lengths, outputs)
        assert equal.float().mean() > 0.99


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_rounds_alike() -> None:
    weight, steps, factor, _, lengths = rounding_case(300, 150, seed=1)
    there = HessianFactor(factor.order.cuda(), factor.upper.cuda(), factor.hessian.cuda(), factor.added)
    outputs = correlated_outputs(300, seed=2)
    outputs_there = FisherFactor(outputs.fisher.cuda(), outputs.order.cuda(), outputs.upper.cuda())

    found = round_weights(weight.cuda(), steps.cuda(), there, lengths.cuda(), outputs_there)

    assert (found == round_weights(weight, steps, factor, lengths, outputs)).float().mean() > 0.97


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
    outputs = correlated_outputs(130, seed=0)
    arrays = {
        "weight": weight,
        "steps": steps,
        "order": factor.order,
        "feedback": factor.feedback,
        "rate": rate,
        "lengths": lengths,
        "row_order": outputs.order,
        "row_feedback": outputs.feedback(steps),
        "out": torch.zeros(130, 24, dtype=torch.int8),
        "errors": torch.zeros(130, 24),
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
        ("row_order", (128,), r"row_order has to be \[130\]"),
        ("row_feedback", (130, 127), r"row_feedback has to be \[130, 128\]"),
        ("out", (130, 23), r"out has to be \[130, 24\]"),
        ("errors", (129, 24), r"errors has to be \[130, 24\]"),
        ("weight", (0, 24), r"a matrix to round has 1 to"),
    ],
)
def test_arrays_of_another_shape_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    arguments = native_arguments()
    arguments[name] = np.resize(arguments[name], shape)
    with pytest.raises(ValueError, match=message):
        _native.round_weights(**arguments)


@pytest.mark.parametrize("name", ["weight", "steps", "feedback", "rate", "lengths", "row_feedback"])
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


@pytest.mark.parametrize("row", [-1, 130, 3, 128])
def test_an_order_of_rows_that_leaves_a_block_is_refused(row: int) -> None:
    arguments = native_arguments()
    arguments["row_order"] = np.arange(130)
    arguments["row_order"][2] = row
    with pytest.raises(ValueError, match="row_order has to name every row of each block once"):
        _native.round_weights(**arguments)


@pytest.mark.parametrize("missing", ["row_order", "row_feedback"])
def test_an_order_of_rows_without_their_feedback_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match="row_order and row_feedback go together"):
        _native.round_weights(**native_arguments() | {missing: None})


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
