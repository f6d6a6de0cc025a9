"""Allocation of the bits: a weight scale for every output channel that meets a size of the whole model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from tilepress.checkpoint.safetensors.reader import TensorFiles
from tilepress.codec import ENTROPY, TILES
from tilepress.errors import QuantizationError
from tilepress.quantize.rate.entropy_cost import entropy_bits, entropy_lengths
from tilepress.quantize.rate.rounding_rule import LARGEST, RATE_WEIGHT, decide
from tilepress.quantize.rate.tile_cost import mean_bits, strip_counts, tile_rate
from tilepress.quantize.statistics.hessian import HessianFactor

SAMPLED_COLUMNS = 32
TOLERANCE = 0.003
OUT_OF_REACH = 0.1
ATTEMPTS = 20
# Doublings of the factor, either way.
WIDEST = 40.0

_TENSORS = ("columns", "rate", "relative", "least", "sensitivity", "cost")
_WEIGHTS = "weights"


@dataclass(frozen=True)
class WeightSample:
    """Some columns of the linears that read one input: enough to predict their size at any common factor.

    columns: float32 [m, n], transposed. rate: float32 [m, 1], weight of the bits in `decide`. relative: float32 [n],
    weight scales without the common factor. least: float32 [n], max |w| / 127 of each row. weights: n · k.
    sensitivity: float32 [n], d_o · mean c. cost: float32 [m, 1], c_j / mean c. Their product is the cost of an error.
    coding: of the integers, "tiles" or "entropy".
    """

    columns: Tensor
    rate: Tensor
    relative: Tensor
    least: Tensor
    weights: int
    sensitivity: Tensor
    cost: Tensor
    coding: str = TILES

    def weight_scales(self, step_factor: float) -> Tensor:
        """Return Δ, float32 [n], for a common factor."""
        return torch.maximum(step_factor * self.relative, self.least)

    def spread(self) -> Tensor:
        """Root mean square of each row's sampled weights, float32 [n]."""
        return self.columns.square().mean(dim=0).sqrt()

    def rate_at(self, step_factor: float) -> tuple[float, Tensor]:
        """Return the codec's cost of the sampled integers, rounded without error feedback at a common factor.

        That is bits per weight, and the lengths of the codes float32 [g, 128] for each row of tiles. The first lengths
        are those of plain rounding; two rounds settle them.
        """
        scales = self.weight_scales(step_factor)
        values = self.columns / scales
        if self.coding == ENTROPY:
            return self._entropy_rate(values, self.spread() / scales)
        bits, lengths = tile_rate(strip_counts(values.round().clamp_(-LARGEST, LARGEST).T))
        for _ in range(2):
            bits, lengths = tile_rate(strip_counts(decide(values, lengths, self.rate).T))
        return mean_bits(bits, len(self.relative)), lengths

    def _entropy_rate(self, values: Tensor, deviation: Tensor) -> tuple[float, Tensor]:
        integers = values.round().clamp_(-LARGEST, LARGEST)
        for _ in range(2):
            integers = decide(values, entropy_lengths(strip_counts(integers.T)), self.rate)
        return entropy_bits(integers.T, deviation), entropy_lengths(strip_counts(integers.T))


def sample_tensors(name: str, sample: WeightSample) -> dict[str, Tensor]:
    """Return the tensors that `StoredSamples` reads, by name."""
    tensors = {f"{name}.sample.{part}": getattr(sample, part).cpu().contiguous() for part in _TENSORS}
    return tensors | {f"{name}.sample.{_WEIGHTS}": torch.tensor([sample.weights])}


class StoredSamples(Sequence[WeightSample]):
    """WeightSamples, each read when it is asked for. names: of the added samples, in order. coding: of all of them."""

    def __init__(self, coding: str) -> None:
        self.names: list[str] = []
        self._coding = coding
        self._files: list[TensorFiles] = []

    def add(self, name: str, stored: TensorFiles) -> None:
        """Add the sample of this name in `stored`."""
        self.names.append(name)
        self._files.append(stored)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> WeightSample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WeightSample]: ...
    def __getitem__(self, index: int | slice) -> WeightSample | Sequence[WeightSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name, stored = self.names[index], self._files[index]
        tensors = {part: stored.read(f"{name}.sample.{part}") for part in _TENSORS}
        weights = int(stored.read(f"{name}.sample.{_WEIGHTS}"))
        return WeightSample(**tensors, weights=weights, coding=self._coding)


def sample_weights(
    blocks: Iterable[Tensor],
    sensitivity: Tensor,
    factor: HessianFactor,
    generator: torch.Generator,
    coding: str = TILES,
) -> WeightSample:
    """Draw columns of a weight float32 [n, k], given as blocks of its rows, with a CPU generator.

    sensitivity: d_o, float32 [n], what an error of a row's output costs. Rounding row o adds d_o Δ_o² mean(c) / 12 to
    the loss. At the best allocation of bits all rows add the same (reverse water-filling): relative weight scales are
    1 / sqrt(d_o · mean c).
    """
    k = len(factor.order)
    picked = torch.randperm(k, generator=generator)[:SAMPLED_COLUMNS].to(factor.order.device)
    mean = factor.cost.mean()
    cost = factor.cost[picked, None] / mean
    columns, least = drawn_columns(blocks, factor.order[picked])
    relative = (sensitivity * mean).clamp(min=torch.finfo(torch.float32).tiny).rsqrt()
    return WeightSample(columns, RATE_WEIGHT / cost, relative, least, len(least) * k, sensitivity * mean, cost, coding)


def drawn_columns(blocks: Iterable[Tensor], picked: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns `picked` of a weight [n, k], given in blocks of rows, as [m, n], and least weight scales [n]."""
    columns, largest = [], []
    for block in blocks:
        columns.append(block[:, picked].T)
        largest.append(block.abs().amax(dim=1))
    return torch.cat(columns, dim=1), (torch.cat(largest) / LARGEST).clamp(min=1e-12)


def foretell_bits(samples: Sequence[WeightSample], step_factor: float) -> float:
    """Expected bits per weight over all samples' linears at a common factor."""
    return mean_of_weights(samples, [sample.rate_at(step_factor)[0] for sample in samples])


def mean_of_weights(samples: Sequence[WeightSample], bits: Sequence[float]) -> float:
    """Bits per weight over all samples' linears. bits: per weight, of each sample."""
    total = sum(sample.weights * taken for sample, taken in zip(samples, bits, strict=True))
    return total / sum(sample.weights for sample in samples)


def fit_step_factor(samples: Sequence[WeightSample], bits: float) -> float:
    """The common factor at which `samples` take `bits` bits per weight, to 0.003 bits or as close as can be found.

    Raises QuantizationError where that is more than 0.1 bits off, with the bits that can be met.
    """
    step_factor, surplus = closest_step_factor(samples, bits)
    if abs(surplus) > OUT_OF_REACH:
        closest = f"{bits:g} bits a weight cannot be met, the closest found is {bits + surplus:.2f}: "
        if surplus < 0:
            raise QuantizationError(
                f"{closest}int8 with a scale per channel holds no more than that for this model; ask for fewer bits"
            )
        raise QuantizationError(f"{closest}the codec takes no less than that for this model; ask for more bits")
    return step_factor


def closest_step_factor(samples: Sequence[WeightSample], bits: float) -> tuple[float, float]:
    """The factor whose size is closest to `bits` per weight, and its surplus in bits."""
    step_factor, surplus = _walk_to(samples, bits)
    if abs(surplus) <= OUT_OF_REACH:
        return step_factor, surplus
    # Where groups are of very different sizes the walk above overshoots; bits fall as the factor rises.
    low, high = math.log2(step_factor) - WIDEST, math.log2(step_factor) + WIDEST
    for _ in range(2 * ATTEMPTS):
        middle = (low + high) / 2
        found = foretell_bits(samples, 2.0**middle) - bits
        if abs(found) < abs(surplus):
            step_factor, surplus = 2.0**middle, found
        if abs(found) < TOLERANCE:
            break
        low, high = (middle, high) if found > 0 else (low, middle)
    return step_factor, surplus


def refit_step_factor(sample: WeightSample, bits: float) -> float:
    """The factor that keeps linears at their allocated bits under the statistics of more tokens.

    With fewer tokens columns look cheaper: a factor found on 4 thousand tokens gave 4.22 bits instead of 4.0 with the
    statistics of 33 thousand.
    """
    return _walk_to([sample], bits)[0]


def _walk_to(samples: Sequence[WeightSample], bits: float) -> tuple[float, float]:
    """The factor whose size is closest to `bits` per weight, and its surplus in bits.

    Doubling the scale saves one bit at a high rate and less at a low one. So a factor of 2^surplus approaches the
    target without overshooting it.
    """
    ratios = torch.cat([sample.spread() / sample.relative for sample in samples])
    used = ratios[ratios > 0]  # rows of zeros have no scale of their own
    step_factor = float(used.median()) / 4.0 if len(used) else 1.0
    closest, surplus_there = step_factor, float("inf")
    for _ in range(ATTEMPTS):
        surplus = foretell_bits(samples, step_factor) - bits
        if abs(surplus) < abs(surplus_there):
            closest, surplus_there = step_factor, surplus
        if abs(surplus) < TOLERANCE:
            break
        step_factor *= 2.0**surplus
    return closest, surplus_there
