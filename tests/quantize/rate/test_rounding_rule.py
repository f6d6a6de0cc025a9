"""The decision of one weight."""

from __future__ import annotations

import pytest
import torch

from tilepress.quantize.rate.rounding_rule import LARGEST, decide
from tilepress.quantize.rate.tile_cost import strip_counts, tile_rate


def test_the_decision_is_the_best_of_its_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 6 * torch.randn(500, generator=generator)
    values[:3] = torch.tensor([0.0, 300.0, -300.0])
    lengths = tile_rate(strip_counts(values[3:].round()[None]))[1][0]

    for weight in (0.0, 0.1, 3.0):
        for value, decided in zip(values.tolist(), decide(values, lengths, weight).tolist(), strict=True):
            nearest = min(round(abs(value)), LARGEST)

            def cost(a: float, value: float = value, weight: float = weight) -> float:
                return (abs(value) - abs(a)) ** 2 + weight * float(lengths[int(abs(a))])

            best = min(cost(a) for a in (nearest, max(nearest - 1, 0), max(nearest - 2, 0), 0))
            assert cost(decided) == pytest.approx(best, rel=1e-5)
            assert decided * value >= 0


def test_two_less_than_the_nearest_is_chosen_where_its_code_is_the_short_one() -> None:
    lengths = torch.full((128,), 30.0)
    lengths[3] = 0.0

    assert decide(torch.tensor([5.2, -5.2, 6.2]), lengths, 0.5).tolist() == [3.0, -3.0, 6.0]


def test_each_128_values_of_the_last_axis_have_their_own_lengths() -> None:
    lengths = torch.zeros(2, 128)
    lengths[0, 1] = 9.0  # the first 128 shun one

    decided = decide(torch.full((3, 130), 0.9), lengths, 1.0)

    assert decided[:, :128].sum() == 0.0
    assert (decided[:, 128:] == 1.0).all()


def test_without_a_weight_on_bits_it_rounds_to_nearest() -> None:
    values = torch.tensor([[-3.6, 0.2, 2.4], [1.7, -0.4, 126.6]])

    assert torch.equal(decide(values, torch.ones(128), 0.0), values.round())
