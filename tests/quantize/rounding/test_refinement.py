"""Refinement of rounded weights: bit by bit against plain code, and by the cost that it lowers."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor

from quantize.rounding.reference_refinement import refine_plainly
from quantize.rounding.rounding_cases import (
    SHAPES,
    correlated_outputs,
    refinement_arguments,
    rounding_case,
)
from tilepress import _native
from tilepress.quantize import Recipe
from tilepress.quantize.rate.rounding_rule import RATE_WEIGHT
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.rounding.refinement import NOISE, noise_of_sweeps, refine_weights
from tilepress.quantize.statistics.fisher import FisherFactor
from tilepress.quantize.statistics.hessian import HessianFactor


def refined(case: tuple[Tensor, ...], outputs: FisherFactor | None, sweeps: int) -> tuple[Tensor, Tensor]:
    """The integers of error feedback, and those of a refinement of them."""
    weight, steps, factor, _, lengths = case
    rounded = round_weights(weight, steps, factor, lengths, outputs)
    better = rounded.clone()
    refine_weights(better, weight, steps, factor, factor.damped(), lengths, outputs, sweeps)
    return rounded, better


def cost(integers: Tensor, case: tuple[Tensor, ...], outputs: FisherFactor | None) -> float:
    """tr(F E H Eᵀ) plus what the bits are worth, in float64, rows of a single block."""
    weight, steps, factor, _, lengths = case
    error = (integers.double() * steps.double()[:, None] - weight.double())[:, factor.order]
    hessian = factor.damped().double()
    if outputs is None:
        fisher, d = torch.eye(len(weight), dtype=torch.float64), torch.ones(len(weight), dtype=torch.float64)
    else:
        order, whole = outputs.order, (outputs.upper.double() @ outputs.upper.double().transpose(1, 2))[0]
        place = torch.argsort(order)
        fisher, d = whole[: len(order), : len(order)][place][:, place], outputs.cost.double()
    bits = lengths[0].double()[integers.abs().long()]
    rate = RATE_WEIGHT * factor.cost.double().mean() * d * steps.double().square()
    return float((fisher @ error @ hessian * error).sum() + (rate[:, None] * bits).sum())


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("apart", [True, False])
def test_every_integer_is_that_of_plain_code(n: int, k: int, threads: int, apart: bool) -> None:
    outputs = None if apart else correlated_outputs(n, seed=k)
    arguments = refinement_arguments(rounding_case(n, k, seed=n), outputs, sweeps=5)
    expected = refine_plainly(**arguments)

    _native.refine_weights(**arguments, threads=threads)

    assert np.array_equal(arguments["integers"], expected)


@pytest.mark.parametrize("apart", [True, False])
def test_refine_weights_is_the_native_function_with_the_factors_of_inputs_and_outputs(apart: bool) -> None:
    case, outputs = rounding_case(130, 40, seed=2), None if apart else correlated_outputs(130, seed=3)
    arguments = refinement_arguments(case, outputs, sweeps=6)

    _, better = refined(case, outputs, sweeps=6)

    assert np.array_equal(better.numpy(), refine_plainly(**arguments))


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_sweeps_without_noise_lower_the_cost_one_by_one_until_no_single_change_does(apart: bool, seed: int) -> None:
    case, outputs = rounding_case(20, 24, seed), None if apart else correlated_outputs(20, seed)
    arguments = refinement_arguments(case, outputs, sweeps=3)
    arguments["noise"] = np.zeros(1, np.float32)
    costs = []
    for _ in range(40):
        costs.append(cost(torch.from_numpy(arguments["integers"].copy()), case, outputs))
        _native.refine_weights(**arguments, threads=1)

    assert all(later <= before * (1 + 1e-6) for before, later in pairwise(costs))
    assert costs[-1] < costs[0]
    best = torch.from_numpy(arguments["integers"])
    for row, column, by in product(range(20), range(24), (-1, 1)):
        other = best.clone()
        other[row, column] = int(torch.tensor(int(best[row, column]) + by).clamp(-127, 127))
        assert cost(other, case, outputs) >= costs[-1] * (1 - 1e-5), (row, column, by)


@pytest.mark.parametrize("seed", range(3))
def test_annealing_ends_lower_than_plain_descent_and_that_lower_than_error_feedback(seed: int) -> None:
    case, outputs = rounding_case(128, 96, seed), correlated_outputs(128, seed)
    arguments = refinement_arguments(case, outputs, sweeps=96)
    arguments["noise"] = np.zeros(96, np.float32)

    rounded, better = refined(case, outputs, sweeps=96)
    _native.refine_weights(**arguments, threads=1)

    descended = cost(torch.from_numpy(arguments["integers"]), case, outputs)
    assert cost(better, case, outputs) < descended < cost(rounded, case, outputs)


def test_noise_falls_to_none_before_the_last_sweeps() -> None:
    assert noise_of_sweeps(0).tolist() == []
    assert noise_of_sweeps(2).tolist() == [0.0, 0.0]
    assert noise_of_sweeps(7).tolist() == [NOISE, 0.75 * NOISE, 0.5 * NOISE, 0.25 * NOISE, 0.0, 0.0, 0.0]


def test_effort_is_a_quarter_or_four_times_the_sweeps() -> None:
    efforts = [Recipe(effort=effort) for effort in ("low", "default", "high")]
    assert [recipe.sweeps(576) for recipe in efforts] == [6, 24, 96]
    assert [recipe.sweeps(12288) for recipe in efforts] == [1, 4, 16], "a sweep over a wide matrix takes longer"


def test_integers_of_inputs_that_are_always_zero_do_not_matter_and_stay_in_range() -> None:
    weight, steps, _, _, lengths = rounding_case(16, 8, seed=0)
    dead = HessianFactor(torch.arange(8), 1e-6 * torch.eye(8), torch.zeros(8, 8), 1e-12)
    integers = round_weights(weight, steps, dead, lengths)

    refine_weights(integers, weight, steps, dead, dead.damped(), lengths, None, 6)

    assert int(integers.abs().max()) <= 127


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("steps", (129,), r"steps has to be \[130\]"),
        ("order", (23,), r"order has to be \[24\]"),
        ("hessian", (24, 23), r"hessian has to be \[24, 24\]"),
        ("rate", (25,), r"rate has to be \[24\]"),
        ("lengths", (3, 128), r"lengths has to be \[2, 128\]"),
        ("row_order", (128,), r"row_order has to be \[130\]"),
        ("coupling", (130, 127), r"coupling has to be \[130, 128\]"),
        ("row_rate", (131,), r"row_rate has to be \[130\]"),
        ("integers", (130, 23), r"integers has to be \[130, 24\]"),
        ("weight", (0, 24), r"a matrix to round has 1 to"),
    ],
)
def test_arrays_of_another_shape_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    arguments = refinement_arguments(rounding_case(130, 24, seed=0), correlated_outputs(130, seed=0), sweeps=2)
    arguments[name] = np.resize(arguments[name], shape)
    with pytest.raises(ValueError, match=message):
        _native.refine_weights(**arguments, threads=1)


@pytest.mark.parametrize("name", ["weight", "steps", "hessian", "rate", "lengths", "coupling", "row_rate", "noise"])
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    arguments = refinement_arguments(rounding_case(130, 24, seed=0), correlated_outputs(130, seed=0), sweeps=2)
    arguments[name].flat[-1] = np.nan
    with pytest.raises(ValueError, match=f"{name} has values that are not finite"):
        _native.refine_weights(**arguments, threads=1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps have to be positive"),
        ("order", 24, "order has to name every column once"),
        ("row_order", 129, "row_order has to name every row of each block once"),
        ("integers", -128, "integers have to be -127 to 127"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: int, message: str) -> None:
    arguments = refinement_arguments(rounding_case(130, 24, seed=0), correlated_outputs(130, seed=0), sweeps=2)
    arguments[name].flat[3] = value
    with pytest.raises(ValueError, match=message):
        _native.refine_weights(**arguments, threads=1)


@pytest.mark.parametrize("missing", ["row_order", "coupling", "row_rate"])
def test_what_is_known_of_rows_goes_together(missing: str) -> None:
    arguments = refinement_arguments(rounding_case(130, 24, seed=0), correlated_outputs(130, seed=0), sweeps=2)
    with pytest.raises(ValueError, match="row_order, coupling and row_rate go together"):
        _native.refine_weights(**arguments | {missing: None}, threads=1)


def test_sums_that_overflow_stay_integers() -> None:
    arguments = refinement_arguments(rounding_case(130, 24, seed=0), correlated_outputs(130, seed=0), sweeps=4)
    arguments["weight"] *= 1e37
    arguments["hessian"] *= 1e34

    _native.refine_weights(**arguments, threads=1)

    assert int(np.abs(arguments["integers"].astype(int)).max()) <= 127
