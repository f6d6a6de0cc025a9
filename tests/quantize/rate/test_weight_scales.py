"""Allocation of bits to channels."""

from __future__ import annotations

import pytest
import torch

from tilepress.errors import QuantizationError
from tilepress.quantize.rate.tile_cost import coded_bits
from tilepress.quantize.rate.weight_scales import (
    WeightSample,
    fit_step_factor,
    foretell_bits,
    refit_step_factor,
    sample_weights,
)
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.statistics.hessian import factorize


def sample_of(weight: torch.Tensor, sensitivity: torch.Tensor) -> WeightSample:
    factor = factorize(torch.eye(weight.shape[1]), 0.01, "here")
    return sample_weights([weight], sensitivity, factor, torch.Generator().manual_seed(0))


def gaussian(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2.0, 3.5, 5.0])
def test_the_rounded_weights_take_the_bits_asked_for(bits: float) -> None:
    inputs = gaussian(500, 128, 0) @ (torch.eye(128) + 0.1 * gaussian(128, 128, 1))
    factor = factorize(inputs.T @ inputs / 500, 0.01, "here")
    weight = gaussian(96, 128, 2)
    alike = torch.ones(96)
    sample = sample_weights([weight], alike, factor, torch.Generator().manual_seed(0))

    scale = fit_step_factor([sample], bits)
    rounded = round_weights(weight, sample.weight_scales(scale), factor, sample.rate_at(scale)[1])

    # Of a single row of tiles the bits rise in jumps, from one choice of widths to the next.
    assert foretell_bits([sample], scale) == pytest.approx(bits, abs=0.05)
    assert coded_bits(rounded) == pytest.approx(bits, abs=0.25)


def test_a_channel_the_loss_depends_on_gets_a_finer_step() -> None:
    sample = sample_of(gaussian(3, 64, 0), torch.tensor([1.0, 4.0, 16.0]))
    steps = sample.weight_scales(fit_step_factor([sample], 4.0))

    assert steps[0] / steps[1] == pytest.approx(2.0, rel=0.1)
    assert steps[1] / steps[2] == pytest.approx(2.0, rel=0.1)


def test_bits_move_to_the_linear_the_loss_depends_on() -> None:
    calm, keen = sample_of(gaussian(32, 64, 0), torch.ones(32)), sample_of(gaussian(32, 64, 1), 16 * torch.ones(32))

    scale = fit_step_factor([calm, keen], 4.0)

    assert foretell_bits([keen], scale) - foretell_bits([calm], scale) == pytest.approx(2.0, abs=0.3)


def test_a_share_of_the_bits_holds_under_other_statistics() -> None:
    calm, keen = sample_of(gaussian(32, 64, 0), torch.ones(32)), sample_of(gaussian(64, 64, 1), 16 * torch.ones(64))
    scale = fit_step_factor([calm, keen], 4.0)
    shares = [foretell_bits([sample], scale) for sample in (calm, keen)]
    assert (shares[0] + 2 * shares[1]) / 3 == pytest.approx(4.0, abs=0.01)

    dearer = sample_of(gaussian(64, 64, 1), 40 * torch.ones(64))

    assert foretell_bits([dearer], scale) > shares[1] + 0.5
    assert foretell_bits([dearer], refit_step_factor(dearer, shares[1])) == pytest.approx(shares[1], abs=0.01)


def test_no_step_is_too_fine_for_127() -> None:
    weight = gaussian(8, 64, 0)
    weight[0, 0] = 100.0
    sample = sample_of(weight, torch.ones(8))

    steps = sample.weight_scales(1e-9)

    torch.testing.assert_close(steps, weight.abs().amax(dim=1) / 127)


def test_a_channel_of_zeros_has_a_step() -> None:
    weight = gaussian(8, 64, 0)
    weight[3] = 0.0

    assert (sample_of(weight, torch.zeros(8)).weight_scales(1.0) > 0).all()


def test_more_bits_than_the_weights_hold_are_refused() -> None:
    sample = sample_of(gaussian(8, 64, 0).sign(), torch.ones(8))  # plus and minus one: a bit each

    with pytest.raises(QuantizationError, match=r"7 bits a weight cannot be met.*fewer bits"):
        fit_step_factor([sample], 7.0)
