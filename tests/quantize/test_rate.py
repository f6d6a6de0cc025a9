"""Entropy, code lengths and the decision of one weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilepress import codec
from tilepress.quantize.rate import LARGEST, code_lengths, decide, entropy_of_counts, magnitude_counts


def test_entropy_is_the_codecs_where_signs_are_fair() -> None:
    values = np.arange(-9, 10, dtype=np.int8).repeat(range(1, 20))
    symmetric = np.concatenate([values, -values]).reshape(20, -1)

    mine = entropy_of_counts(magnitude_counts(torch.from_numpy(symmetric)))

    assert mine == pytest.approx(codec.entropy(symmetric))


def test_a_constant_has_no_entropy() -> None:
    assert entropy_of_counts(magnitude_counts(torch.zeros(5, 5, dtype=torch.int8))) == 0.0


def test_code_lengths_are_finite_for_values_never_seen_and_longer_than_for_common_ones() -> None:
    lengths = code_lengths(magnitude_counts(torch.tensor([0] * 50 + [1] * 20 + [-2] * 5)))

    assert lengths.isfinite().all()
    assert lengths[0] < lengths[1] < lengths[2] < lengths[100]


def test_the_decision_is_the_best_of_its_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 6 * torch.randn(500, generator=generator)
    values[:3] = torch.tensor([0.0, 300.0, -300.0])
    lengths = code_lengths(magnitude_counts((values[3:]).round()))

    for weight in (0.0, 0.1, 3.0):
        for value, decided in zip(values.tolist(), decide(values, lengths, weight).tolist(), strict=True):
            nearest = min(round(abs(value)), LARGEST)

            def cost(a: float, value: float = value, weight: float = weight) -> float:
                return (abs(value) - abs(a)) ** 2 + weight * float(lengths[int(abs(a))])

            best = min(cost(a) for a in (nearest, max(nearest - 1, 0), 0))
            assert cost(decided) == pytest.approx(best, rel=1e-5)
            assert decided * value >= 0


def test_without_a_weight_on_bits_it_rounds_to_nearest() -> None:
    values = torch.tensor([[-3.6, 0.2, 2.4], [1.7, -0.4, 126.6]])

    assert torch.equal(decide(values, torch.ones(128), 0.0), values.round())
