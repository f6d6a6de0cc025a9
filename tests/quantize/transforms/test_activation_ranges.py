"""Static activation ranges."""

from __future__ import annotations

import pytest
import torch

from tilepress.errors import QuantizationError
from tilepress.quantize.transforms.activation_ranges import range_of, static_range


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 5.0), (-7.0, 0.0), (2.0, 9.0), (-0.01, 2000.0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_zero_is_exact_and_the_ends_are_met_to_a_step(low: float, high: float, dtype: torch.dtype) -> None:
    chosen = range_of(low, high, dtype, "here")
    seen = chosen.round_trip(torch.tensor([0.0, low, high]))

    assert seen[0] == 0.0
    assert -128 <= chosen.offset <= 127
    # A scale rounded down to bfloat16 loses up to half of 2**-8 of the range, which is a step.
    assert (seen[1:] - torch.tensor([low, high])).abs().max() <= 1.6 * chosen.scale


def test_the_scale_is_the_value_that_the_stored_type_holds() -> None:
    scale = range_of(-1.0, 2.0, torch.bfloat16, "here").scale

    assert scale == float(torch.tensor(scale).bfloat16())


def test_round_trip_is_the_formats_definition() -> None:
    chosen = range_of(-1.3, 2.9, torch.float16, "here")
    x = torch.linspace(-4, 4, 101)

    integers = (torch.round(x / chosen.scale) + chosen.offset).clamp(-128, 127)

    torch.testing.assert_close(chosen.round_trip(x), (integers - chosen.offset) * chosen.scale)


def test_a_static_range_holds_what_calibration_has_seen_and_a_tenth_more() -> None:
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 60.0

    chosen = static_range(float(rows.min()), float(rows.max()), torch.float16, "here")
    seen = chosen.round_trip(torch.tensor([60.0, 65.0, 100.0]))

    assert chosen.clipped(rows) == 0.0
    torch.testing.assert_close(seen, torch.tensor([60.0, 65.0, 66.0]), rtol=0, atol=chosen.scale)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (-1e8, 1e8)])
def test_a_scale_that_float16_cannot_hold_is_refused_by_name(low: float, high: float) -> None:
    with pytest.raises(QuantizationError, match=r"model.layers.0.qkv.*bfloat16"):
        range_of(low, high, torch.float16, "model.layers.0.qkv")


def test_an_input_that_is_always_zero_has_a_range() -> None:
    zeros = range_of(0.0, 0.0, torch.float16, "model.layers.0.down")
    assert (zeros.scale, zeros.offset) == (1.0, 0)
    assert torch.equal(zeros.round_trip(torch.zeros(3, 4)), torch.zeros(3, 4))
