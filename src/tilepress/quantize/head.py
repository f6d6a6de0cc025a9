"""The output head as one more quantized linear, some thousand rows of its weight in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.checkpoint import QuantizedLinear
from tilepress.checkpoint.feeds import FINAL_NORM
from tilepress.quantize.decoder import POSITIONS, LayerwiseDecoder
from tilepress.quantize.hessian import HessianFactor, factorize
from tilepress.quantize.layer import fitted_range, pack
from tilepress.quantize.rate import TILE_ROWS
from tilepress.quantize.report import LinearReport
from tilepress.quantize.rounding import round_weights
from tilepress.quantize.smoothing import column_scales, representable_scales
from tilepress.quantize.statistics import InputStatistics, InputSums
from tilepress.quantize.steps import WeightSample, refit_scale, relative_steps, sample_weights
from tilepress.quantize.tile_rate import coded_bits

NAME = "lm_head"
ROWS = 64 * TILE_ROWS

# This share of the mean sensitivity is added to every token's. A token that the calibration text never asks for may be
# common in another language: without the floor its row would get steps hundreds of times those of frequent tokens. On
# SmolLM2 (head alone, 3.3 bits, English) a floor of 1 instead of 0.2 took the divergence from .0066 to .0083 nats on
# prose and from .0106 to .0112 on source code.
FLOOR = 1.0


@dataclass(frozen=True)
class Head:
    """The head with its input scaled column by column, computing the same function.

    gain: of the final norm, after the fold. scales: by what the inputs were divided, float32 [hidden]. statistics: of
    the scaled inputs. sensitivity: G_v of each token's logit and the floor, float32 [vocabulary].
    """

    decoder: LayerwiseDecoder
    gain: Tensor
    scales: Tensor
    statistics: InputStatistics
    factor: HessianFactor
    sensitivity: Tensor

    def blocks(self) -> Iterator[Tensor]:
        """The scaled weight, float32 [up to ROWS, hidden] at a time."""
        for start in range(0, len(self.sensitivity), ROWS):
            yield self.decoder.head_weight(start, start + ROWS) * self.scales

    def sample(self, generator: torch.Generator) -> WeightSample:
        """Columns from which the steps are fitted."""
        relative = relative_steps(self.sensitivity, self.factor)
        return sample_weights(self.blocks(), relative, self.of_logits(), self.factor, generator)

    def of_logits(self) -> Tensor:
        """G_v without the floor, float32 [vocabulary]."""
        return self.sensitivity - FLOOR / (1.0 + FLOOR) * self.sensitivity.mean()


def logit_sensitivity(decoder: LayerwiseDecoder, hidden: Iterable[Tensor]) -> Tensor:
    """G_v = E[(dloss/dlogit_v)²], float32 [vocabulary], over hidden states [samples, length, hidden], in parts.

    With labels drawn from the model itself the gradient is p - onehot(label), whose mean square is p (1 - p).
    """
    norm = decoder.norm()
    total = torch.zeros(decoder.vocabulary, device=decoder.device)
    count = 0
    for part in hidden:
        for positions in torch.split(part.to(decoder.device).flatten(0, 1), POSITIONS):
            p = decoder.logits(norm(positions)).softmax(dim=-1)
            total += p.sub_(p.square()).sum(dim=0)
            count += len(positions)
    return total / count


def fold_head(
    decoder: LayerwiseDecoder,
    seen: InputStatistics,
    sensitivity: Tensor,
    damping: float,
    dtype: torch.dtype,
    *,
    shared: bool,
) -> Head:
    """Divide the head's input by column scales, folded into the final norm's gain, exact in `dtype`.

    shared: the head's integers are to be the embedding too, which has no norm behind it: all scales are 1.
    """
    floored = sensitivity + FLOOR * sensitivity.mean()
    gain = decoder.load(FINAL_NORM.gain)
    scales = torch.ones_like(gain)
    if not shared:
        scales = column_scales(factorize(seen.hessian, damping, NAME).cost_by_column(), seen.largest())
        gain, scales = representable_scales(gain, scales, dtype)
    statistics = seen.divided(scales)
    return Head(decoder, gain, scales, statistics, factorize(statistics.hessian, damping, NAME), floored)


def head_statistics(
    decoder: LayerwiseDecoder, hidden: Iterable[Tensor], rows_a_sequence: int, generator: torch.Generator
) -> InputStatistics:
    """Of what the head reads, for the last layer's outputs in sequences [1, length, hidden]."""
    norm = decoder.norm()
    sums = InputSums()
    for sequence in hidden:
        x = norm(sequence[0].to(decoder.device))
        sums.add(x, x[torch.randperm(len(x), generator=generator)[:rows_a_sequence].to(x.device)])
    return sums.statistics()


def quantize_head(
    head: Head, sample: WeightSample, bits: float, activations: str, dtype: torch.dtype
) -> tuple[QuantizedLinear, LinearReport]:
    """Fit the steps of `head.sample` to `bits` bits a weight, round, pack as layers do. activations: as in Recipe."""
    scale = refit_scale(sample, bits)
    steps, lengths = sample.steps(scale), sample.rate_at(scale)[1]
    importance = torch.zeros_like(head.scales)
    for block, sensitivity in zip(head.blocks(), torch.split(head.sensitivity, ROWS), strict=True):
        importance += sensitivity @ block.square()
    inputs = fitted_range(head.statistics, importance, activations, dtype, NAME)

    rows = head.statistics.fewer_rows()
    seen = inputs.round_trip(rows)
    weight = torch.empty(len(steps), len(head.scales), dtype=torch.int8)
    error = norm = loss = 0.0
    parts = zip(
        head.blocks(),
        torch.split(weight, ROWS),
        torch.split(steps, ROWS),
        torch.split(lengths, ROWS // TILE_ROWS),
        torch.split(head.of_logits(), ROWS),
        strict=True,
    )
    for block, integers, step, tables, sensitivity in parts:
        q = round_weights(block, step, head.factor, tables)
        exact = rows @ block.T
        by_row = (seen @ (q * step[:, None]).T - exact).square().sum(dim=0)
        error += float(by_row.sum())
        loss += 0.5 * float(by_row @ sensitivity) / len(rows)
        norm += float(exact.square().sum())
        integers.copy_(q)
    report = LinearReport(
        name=NAME,
        weights=weight.numel(),
        bits=coded_bits(weight),
        zeros=float((weight == 0).sum()) / weight.numel(),
        relative_error=error / max(norm, 1e-30),
        clipped=inputs.clipped(rows),
        overflows=float(inputs.leaves(head.statistics.rows).float().mean()),
        loss=loss,
    )
    return pack(weight, steps, inputs, None, NAME), report
