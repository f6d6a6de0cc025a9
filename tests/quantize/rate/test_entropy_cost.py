"""What the entropy coder is predicted to take, beside what it takes."""

from __future__ import annotations

import pytest
import torch

from tilepress import codec
from tilepress.codec import ENTROPY
from tilepress.quantize.rate.entropy_cost import entropy_bits, entropy_lengths
from tilepress.quantize.rate.tile_cost import coded_bits, strip_counts


def gaussian(n: int, k: int, spread: float, seed: int = 0) -> torch.Tensor:
    values = spread * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    return values.round().clamp(-127, 127).to(torch.int8)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_the_predicted_bits_are_the_coders(spread: float) -> None:
    integers = gaussian(512, 1024, spread)
    deviation = torch.full((512,), spread)

    assert entropy_bits(integers, deviation) == pytest.approx(coded_bits(integers, ENTROPY), rel=0.02, abs=0.02)


def test_rows_of_other_deviation_have_tables_of_their_own() -> None:
    integers = torch.cat([gaussian(256, 1024, 0.5), gaussian(256, 1024, 8.0, seed=1)])
    deviation = torch.cat([torch.full((256,), 0.5), torch.full((256,), 8.0)])

    apart = (entropy_bits(integers[:256], deviation[:256]) + entropy_bits(integers[256:], deviation[256:])) / 2
    assert entropy_bits(integers, deviation) == pytest.approx(apart, rel=1e-6)
    assert entropy_bits(integers, torch.ones(512)) > apart + 0.4
    assert coded_bits(integers, ENTROPY) == pytest.approx(apart, rel=0.02)


def test_it_takes_less_than_tiles() -> None:
    spreads = 2.0 ** torch.linspace(0, 2, 512)[torch.randperm(512, generator=torch.Generator().manual_seed(0)), None]
    integers = (gaussian(512, 1024, 100.0) / 100 * spreads).round().to(torch.int8)
    assert coded_bits(integers, ENTROPY) < 0.92 * coded_bits(integers)
    assert codec.encode_entropy(integers.numpy()).nbytes < codec.encode(integers.numpy()).nbytes


def test_lengths_are_those_of_an_ideal_code() -> None:
    integers = gaussian(256, 512, 2.0)
    counts = strip_counts(integers)
    lengths = entropy_lengths(counts)

    assert lengths.shape == (2, 128)
    shares = counts[0] / counts[0].sum()
    assert float(lengths[0, 0]) == pytest.approx(-float(shares[0].log2()), abs=1e-3)
    assert float(lengths[0, 2]) == pytest.approx(1 - float(shares[2].log2()), abs=1e-3)
    assert lengths.isfinite().all()
    assert lengths[0, 100] == lengths.max()
