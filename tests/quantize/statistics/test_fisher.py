"""The Fisher information of outputs, and its factors block by block."""

from __future__ import annotations

import pytest
import torch

from tilepress.errors import QuantizationError
from tilepress.quantize.statistics.fisher import (
    BLOCK,
    DAMPING,
    factorize_outputs,
    scaled_outputs,
)

ROWS = 200  # one block and 72 rows


def blocks(rows: int = ROWS) -> torch.Tensor:
    """Products of gradients that depend on each other, in blocks."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(1000, rows, generator=generator) @ (
        torch.eye(rows) + 0.2 * torch.randn(rows, rows, generator=generator)
    )
    gradients = torch.nn.functional.pad(mixed, (0, -rows % BLOCK)).view(1000, -1, BLOCK).transpose(0, 1)
    return gradients.transpose(1, 2) @ gradients / 1000


def test_factors_reproduce_the_damped_blocks() -> None:
    fisher = blocks()
    factor = factorize_outputs(fisher, ROWS, "here")

    mean = fisher.diagonal(dim1=1, dim2=2).sum() / ROWS
    for number, rows in enumerate((range(128), range(128, 200))):
        order = factor.order[rows.start : rows.stop]
        assert sorted(order.tolist()) == list(rows)
        within = order - 128 * number
        damped = fisher[number][within][:, within] + DAMPING * mean * torch.eye(len(rows))
        upper = factor.upper[number][: len(rows), : len(rows)]
        torch.testing.assert_close(upper @ upper.T, damped, rtol=1e-4, atol=1e-4)
        assert (damped.diagonal().diff() <= 0).all(), "by descending diagonal"


def test_the_cost_of_a_row_is_what_is_left_when_later_rows_make_up_for_it() -> None:
    factor = factorize_outputs(blocks(), ROWS, "here")
    upper = factor.upper[1][:72, :72]
    inverse = (upper @ upper.T).inverse()

    first, last = factor.order[128], factor.order[-1]
    assert float(factor.cost[first]) == pytest.approx(1.0 / float(inverse[0, 0]), rel=1e-3)
    assert float(factor.cost[last]) == pytest.approx(float((upper @ upper.T)[-1, -1]), rel=1e-3)


def test_feedback_is_that_of_the_inverse_in_units_of_the_weight_scales() -> None:
    factor = factorize_outputs(blocks(), ROWS, "here")
    scales = torch.linspace(0.5, 2.0, ROWS)

    feedback = factor.feedback(scales)

    inverse = factor.upper[0].inverse()
    i, r = 3, 90
    ratio = scales[factor.order[i]] / scales[factor.order[r]]
    assert float(feedback[r, i]) == pytest.approx(float(inverse[i, r] / inverse[i, i] * ratio), rel=1e-3)
    assert float(factor.part(slice(1, 2)).feedback(scales[128:])[40, 7]) == pytest.approx(float(feedback[168, 7]))


def test_rows_that_never_reach_the_loss_keep_a_cost() -> None:
    fisher = blocks()
    fisher[0, 5], fisher[0, :, 5] = 0.0, 0.0

    factor = factorize_outputs(fisher, ROWS, "here")

    mean = float(fisher.diagonal(dim1=1, dim2=2).sum()) / ROWS
    assert float(factor.cost[5]) == pytest.approx(DAMPING * mean, rel=1e-3)
    assert factor.order[127] == 5


def test_where_no_output_reaches_the_loss_all_rows_are_alike_and_apart() -> None:
    factor = factorize_outputs(torch.zeros(2, BLOCK, BLOCK), ROWS, "here")
    assert factor.order.tolist() == list(range(ROWS))
    assert torch.equal(factor.cost, torch.ones(ROWS))
    assert torch.equal(factor.feedback(torch.ones(ROWS)).count_nonzero(dim=1), torch.ones(ROWS, dtype=torch.int64))


def test_gradients_that_are_not_finite_are_refused_by_name() -> None:
    fisher = blocks()
    fisher[1, 2, 3] = torch.inf
    with pytest.raises(QuantizationError, match=r"model\.layers\.3\.down: gradients .* are not finite"):
        factorize_outputs(fisher, ROWS, "model.layers.3.down")


def test_dividing_outputs_multiplies_their_gradients() -> None:
    scales = torch.linspace(0.5, 2.0, ROWS)
    scaled = scaled_outputs(blocks(), scales)
    assert float(scaled[1, 4, 9]) == pytest.approx(float(blocks()[1, 4, 9] * scales[132] * scales[137]))


def test_errors_are_weighed_as_the_loss_does_to_second_order() -> None:
    fisher = blocks()
    errors = torch.randn(7, ROWS, generator=torch.Generator().manual_seed(1))

    found = factorize_outputs(fisher, ROWS, "here").weighted(errors)

    for rows, block in ((slice(0, 128), fisher[0]), (slice(128, 200), fisher[1, :72, :72])):
        of_block = errors[:, rows]
        expected = torch.einsum("to,op,tp->o", of_block, block, of_block)
        torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-3)
