"""What the codec is foretold to take, beside what it takes."""

from __future__ import annotations

import pytest
import torch

from tilepress import codec
from tilepress.quantize.rate.tile_cost import coded_bits, strip_counts, tile_rate


def gaussian(n: int, k: int, spread: float) -> torch.Tensor:
    values = spread * torch.randn(n, k, generator=torch.Generator().manual_seed(0))
    return values.round().clamp(-127, 127).to(torch.int8)


@pytest.mark.parametrize("spread", [0.3, 0.8, 1.5, 3.0, 6.0, 20.0, 40.0])
def test_the_foretold_bits_are_the_encoders(spread: float) -> None:
    integers = gaussian(128, 512, spread)

    taken = 8 * codec.encode(integers.numpy()).weight.nbytes / integers.numel()

    assert coded_bits(integers) == pytest.approx(taken, rel=0.02)


def test_rows_of_tiles_of_different_spread_are_foretold_each_by_itself() -> None:
    integers = torch.cat([gaussian(128, 256, 0.5), gaussian(60, 256, 8.0)])

    bits, lengths = tile_rate(strip_counts(integers))

    assert bits[1] > bits[0] + 3
    assert lengths.shape == (2, 128)
    assert coded_bits(integers) == pytest.approx((128 * float(bits[0]) + 60 * float(bits[1])) / 188)


def test_frequent_values_have_short_codes_and_those_never_seen_the_longest() -> None:
    lengths = tile_rate(strip_counts(gaussian(128, 256, 1.0)))[1][0]

    assert lengths.isfinite().all()
    assert lengths[0] <= lengths[1] < lengths[3] <= lengths[100]
    assert lengths[100] == lengths.max()


def test_the_code_lengths_add_up_to_the_bits_but_for_header_and_padding() -> None:
    integers = gaussian(128, 256, 2.0)
    counts = strip_counts(integers)

    bits, lengths = tile_rate(counts)

    codes = float((counts * lengths).sum()) / integers.numel()
    assert codes < float(bits[0]) < codes + 0.04


def test_a_constant_takes_next_to_nothing() -> None:
    assert coded_bits(torch.zeros(128, 256, dtype=torch.int8)) < 0.05
