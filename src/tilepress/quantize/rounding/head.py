"""The output head as one more quantized linear, with some thousand rows of its weight in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tilepress.checkpoint import QuantizedLinear
from tilepress.checkpoint.tensors.activation_mode import mode_of_input
from tilepress.codec import TILES
from tilepress.distributed.communicator import ALONE, Communicator
from tilepress.models.layer_inputs import FINAL_NORM, HEAD
from tilepress.quantize.layerwise.decoder import POSITIONS, LayerwiseDecoder
from tilepress.quantize.layerwise.hidden_states import HiddenStates
from tilepress.quantize.rate.tile_cost import coded_bits, share_of_zeros
from tilepress.quantize.rate.weight_scales import WeightSample, refit_step_factor, sample_weights
from tilepress.quantize.report import LinearReport
from tilepress.quantize.rounding.gptq import ROWS, round_rows
from tilepress.quantize.rounding.layer import fitted_range, pack
from tilepress.quantize.statistics.hessian import HessianFactor, factorize
from tilepress.quantize.statistics.input_statistics import InputStatistics, InputSums
from tilepress.quantize.transforms.activation_ranges import ActivationRange
from tilepress.quantize.transforms.column_scales import column_scales, representable_scales, within_range

NAME = "lm_head"

# This share of the mean sensitivity is added to every token's. A token that the calibration text never asks for may be
# common in another language: without the floor its row would get a scale hundreds of times those of frequent tokens. On
# SmolLM2 (head alone, 3.3 bits, English) a floor of 1 instead of 0.2 took the divergence from .0066 to .0083 nats on
# prose and from .0106 to .0112 on source code.
FLOOR = 1.0


@dataclass(frozen=True)
class Head:
    """The head with its input scaled column by column, computing the same function.

    gain: of the final norm, after the fold. scales: the divisors of the inputs, float32 [hidden]. statistics: of the
    scaled inputs. sensitivity: G_v of each token's logit plus the floor, float32 [vocabulary].
    """

    decoder: LayerwiseDecoder
    gain: Tensor
    scales: Tensor
    statistics: InputStatistics
    factor: HessianFactor
    sensitivity: Tensor

    def blocks(self) -> Iterator[Tensor]:
        """Yield the scaled weight, float32 [up to ROWS, hidden] at a time."""
        for start in range(0, len(self.sensitivity), ROWS):
            yield self.block(slice(start, start + ROWS))

    def block(self, rows: slice) -> Tensor:
        """Return rows of the scaled weight."""
        return self.decoder.head_weight(rows.start, rows.stop) * self.scales

    def sample(self, generator: torch.Generator, coding: str = TILES) -> WeightSample:
        """Draw the columns from which the weight scales are fitted."""
        sample = sample_weights(self.blocks(), self.sensitivity, self.factor, generator, coding)
        return replace(sample, sensitivity=self.of_logits() * self.factor.cost.mean())

    def of_logits(self) -> Tensor:
        """G_v without the floor, float32 [vocabulary]."""
        return self.sensitivity - FLOOR / (1.0 + FLOOR) * self.sensitivity.mean()


def logit_sensitivity(decoder: LayerwiseDecoder, hidden: Iterable[Tensor], ranks: Communicator = ALONE) -> Tensor:
    """Return G_v = E[(dloss/dlogit_v)²], float32 [vocabulary], over hidden states [samples, length, hidden], in parts.

    Each rank passes its own states. With labels drawn from the model itself the gradient is p - onehot(label), whose
    mean square is p (1 - p).
    """
    norm = decoder.norm()
    total = torch.zeros(decoder.vocabulary, device=decoder.device)
    count = 0
    for part in hidden:
        for positions in torch.split(part.to(decoder.device).flatten(0, 1), POSITIONS):
            p = decoder.logits(norm(positions)).softmax(dim=-1)
            total += p.sub_(p.square()).sum(dim=0)
            count += len(positions)
    return ranks.add_up(total) / int(ranks.add_up(torch.tensor(count)))


def fold_head(
    decoder: LayerwiseDecoder,
    seen: InputStatistics,
    sensitivity: Tensor,
    damping: float,
    dtype: torch.dtype,
    *,
    shared: bool,
    activations: str,
) -> Head:
    """Divide the head's input by column scales, folded into the final norm's gain, exact in `dtype`.

    shared: the head's integers are the embedding too, where nothing would undo scales, so that all of them are 1.
    activations: as in Recipe.
    """
    floored = sensitivity + FLOOR * sensitivity.mean()
    gain = decoder.load(FINAL_NORM.gain)
    scales = torch.ones_like(gain)
    if not shared:
        cost = factorize(seen.hessian, damping, NAME).cost_by_column()
        scales = column_scales(cost, seen.largest(), mode_of_input(activations, massive=HEAD.massive))
        scales = within_range(scales, seen.fewer_rows())
        gain, scales = representable_scales(gain, scales, dtype)
    statistics = seen.divided(scales)
    return Head(decoder, gain, scales, statistics, factorize(statistics.hessian, damping, NAME), floored)


def head_statistics(
    decoder: LayerwiseDecoder,
    hidden: HiddenStates | Sequence[Tensor],
    length: int,
    rows_a_sequence: int,
    generator: torch.Generator,
    ranks: Communicator = ALONE,
) -> InputStatistics:
    """Return statistics of the head's inputs. hidden: the last layer's outputs of this rank's sequences.

    Each sequence is [1, length, hidden]; rows_a_sequence tokens of it are kept as the sample.
    """
    norm = decoder.norm()
    sums = InputSums(decoder.hidden, torch.empty(0, device=decoder.device))
    before, after = ranks.others(len(hidden))
    drawn = [torch.randperm(length, generator=generator)[:rows_a_sequence] for _ in range(before + len(hidden) + after)]
    for sequence, rows in zip(hidden, drawn[before : before + len(hidden)], strict=True):
        x = norm(sequence[0].to(decoder.device))
        sums.add(x, x[rows.to(x.device)])
    return sums.statistics(ranks)


def _range(head: Head, activations: str, dtype: torch.dtype) -> ActivationRange:
    weights = zip(torch.split(head.sensitivity, ROWS), head.blocks(), strict=True)
    return fitted_range(head.statistics, weights, mode_of_input(activations, massive=HEAD.massive), dtype, NAME)


def quantize_head(
    head: Head,
    sample: WeightSample,
    bits: float,
    activations: str,
    dtype: torch.dtype,
    ranks: Communicator = ALONE,
    *,
    sweeps: int,
) -> tuple[QuantizedLinear, LinearReport]:
    """Fit the weight scales of `head.sample` to `bits` bits per weight, round and pack.

    activations, sweeps: as in Recipe. Each rank rounds its share of the rows.
    """
    scale = ranks.first(lambda: refit_step_factor(sample, bits))
    weight_scale, lengths = ranks.agreed(sample.weight_scales(scale)), ranks.agreed(sample.rate_at(scale)[1])
    inputs = ranks.first(lambda: _range(head, activations, dtype))

    tokens = head.statistics.fewer_rows()
    rounded = round_rows(head.block, weight_scale, lengths, head.factor, inputs, tokens, ranks, sweeps=sweeps)
    weight = rounded.integers
    report = LinearReport(
        name=NAME,
        weights=weight.numel(),
        bits=coded_bits(weight, sample.coding),
        zeros=share_of_zeros(weight),
        relative_error=float(rounded.error.sum() / rounded.norm.sum().clamp(min=1e-30)),
        clipped=inputs.clipped(tokens),
        overflows=float(inputs.overflows(head.statistics.rows).float().mean()),
        loss=0.5 * float(rounded.error @ head.of_logits()) / len(tokens),
    )
    return pack(weight, weight_scale, inputs, None, NAME), report
