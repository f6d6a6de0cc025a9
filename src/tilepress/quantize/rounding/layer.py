"""Quantization of one decoder layer, from float weights and statistics to quantized linears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.checkpoint import QuantizedLinear
from tilepress.checkpoint.description import W8A8S, W8A8S_DYNAMIC
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC, OVERFLOW, mode_of_input, row_sums
from tilepress.codec import TILES
from tilepress.distributed.communicator import ALONE, Communicator
from tilepress.errors import QuantizationError
from tilepress.models.layer_inputs import FEEDS, Feed
from tilepress.quantize.rate.tile_cost import coded_bits, share_of_zeros
from tilepress.quantize.rate.weight_scales import WeightSample, sample_weights
from tilepress.quantize.report import LinearReport
from tilepress.quantize.rounding.gptq import round_rows
from tilepress.quantize.statistics.fisher import FisherFactor, factorize_outputs, scaled_outputs
from tilepress.quantize.statistics.hessian import HessianFactor, factorize
from tilepress.quantize.statistics.input_statistics import InputStatistics
from tilepress.quantize.transforms.activation_ranges import ActivationRange, static_range
from tilepress.quantize.transforms.folding import FoldedLayer
from tilepress.quantize.transforms.overflow_ranges import overflow_range, per_token_range

# Rows of a weight that are processed at a time.
ROWS = 4096
BIAS_STEPS = 1 << 24
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class FusedWeight:
    """The linears that read one input, fused to one matrix with rows in the order of `feed.consumers`.

    weight: float32 [n, k]. rows: the number of rows of each consumer. factor, outputs: of the statistics of inputs and
    outputs.
    """

    feed: Feed
    weight: Tensor
    rows: tuple[int, ...]
    factor: HessianFactor
    outputs: FisherFactor
    statistics: InputStatistics

    def sample(self, generator: torch.Generator, coding: str = TILES) -> WeightSample:
        """Draw the columns from which the weight scales are fitted."""
        blocks = torch.split(self.weight, ROWS)
        return sample_weights(blocks, self.outputs.cost, self.factor, generator, coding)


def fused_weights(
    folded: FoldedLayer, fisher: Mapping[str, Tensor], damping: float, where: str, feeds: Iterable[Feed] = FEEDS
) -> Iterator[FusedWeight]:
    """Yield the groups of a layer. Each is made when it is asked for, and its tensors are removed from `folded`.

    fisher: `LayerSensitivity.fisher` of the layer before the folds.
    """
    for feed in feeds:
        yield _group(feed, folded, fisher[feed.name], damping, f"{where}.{feed.name}")


def _group(feed: Feed, folded: FoldedLayer, fisher: Tensor, damping: float, where: str) -> FusedWeight:
    weights = [folded.tensors.pop(f"{consumer}.weight") for consumer in feed.consumers]
    scales = [
        folded.row_scales.get(consumer, weight.new_ones(len(weight)))
        for consumer, weight in zip(feed.consumers, weights, strict=True)
    ]
    statistics = folded.statistics.pop(feed.name)
    factor = factorize(statistics.hessian, damping, where)
    whole = weights[0] if len(weights) == 1 else torch.cat(weights)
    outputs = factorize_outputs(scaled_outputs(fisher, torch.cat(scales)), len(whole), where)
    return FusedWeight(feed, whole, tuple(map(len, weights)), factor, outputs, statistics)


def activation_range(group: FusedWeight, activations: str, dtype: torch.dtype, where: str) -> ActivationRange:
    """Return the range of a group's input. activations: as in Recipe."""
    weights = zip(torch.split(group.outputs.sensitivity, ROWS), torch.split(group.weight, ROWS), strict=True)
    mode = mode_of_input(activations, massive=group.feed.massive)
    return fitted_range(group.statistics, weights, mode, dtype, where)


def fitted_range(
    seen: InputStatistics,
    weights: Iterable[tuple[Tensor, Tensor]],
    mode: str,
    dtype: torch.dtype,
    where: str,
) -> ActivationRange:
    """Return the range of the input of `weights`: blocks of rows, each the outputs' sensitivity [n] and weights [n, k].

    Tokens outside it are clipped or get dynamic scales.
    """
    if mode == OVERFLOW:
        importance = torch.stack([sensitivity @ weight.square() for sensitivity, weight in weights]).sum(dim=0)
        return overflow_range(seen, importance, dtype, where)
    if mode == DYNAMIC:
        return per_token_range(seen.rows, dtype, where)
    return static_range(float(seen.low.min()), float(seen.high.max()), dtype, where)


def range_loss(group: FusedWeight, inputs: ActivationRange) -> float:
    """Return the predicted increase of the loss by the range of a group's input alone, in nats a token."""
    tokens = group.statistics.fewer_rows()
    errors = (inputs.round_trip(tokens) - tokens) @ group.weight.T
    return 0.5 * float(group.outputs.weighted(errors).sum()) / len(tokens)


def quantize_fused(
    group: FusedWeight,
    weight_scale: Tensor,
    lengths: Tensor,
    inputs: ActivationRange,
    tensors: Mapping[str, Tensor],
    where: str,
    ranks: Communicator = ALONE,
    coding: str = TILES,
    *,
    sweeps: int,
) -> list[tuple[str, QuantizedLinear, LinearReport]]:
    """Round a group and split it into its linears, named `where`.consumer.

    weight_scale: float32 [n]. lengths: from `WeightSample.rate_at`. tensors: of the folded layer, for its biases.
    sweeps: of the refinement. Each rank rounds its share of the rows. The first rank gets (consumer, linear, report) of
    each linear, others nothing.
    """
    tokens, factor, outputs = group.statistics.fewer_rows(), group.factor, group.outputs
    rounded = round_rows(
        lambda part: group.weight[part], weight_scale, lengths, factor, inputs, tokens, ranks, outputs, sweeps=sweeps
    )
    if not ranks.writes:
        return []
    clipped = inputs.clipped(tokens)
    overflows = float(inputs.overflows(group.statistics.rows).float().mean())
    result = []
    start = 0
    for consumer, count in zip(group.feed.consumers, group.rows, strict=True):
        part = slice(start, start + count)
        start += count
        q, error = rounded.integers[part], rounded.error[part]
        report = LinearReport(
            name=f"{where}.{consumer}",
            weights=q.numel(),
            bits=coded_bits(q, coding),
            zeros=share_of_zeros(q),
            relative_error=float(error.sum() / rounded.norm[part].sum().clamp(min=1e-30)),
            clipped=clipped,
            loss=0.5 * float(rounded.loss[part].sum()) / len(tokens),
            overflows=overflows,
        )
        result.append(
            (consumer, pack(q, weight_scale[part], inputs, tensors.get(f"{consumer}.bias"), report.name), report)
        )
    return result


def pack(
    integers: Tensor, weight_scale: Tensor, inputs: ActivationRange, bias: Tensor | None, where: str
) -> QuantizedLinear:
    """Return the stored form of a linear.

    deq_scale = input_scale · weight_scale, quant_bias = round(bias / deq_scale) - offset · Σ_k q. A row of zeros gets a
    deq_scale that holds its bias to 24 bits. integers: int8 [n, k], on the CPU. weight_scale, bias: float32 [n]. Raises
    QuantizationError if a value overflows float32 or int32.
    """
    deq_scale = inputs.scale * weight_scale.cpu().float()
    shift = -inputs.offset * row_sums(integers).long()
    if bias is not None:
        alone = ~integers.any(dim=1) & (bias.cpu() != 0)
        deq_scale = torch.where(alone, (bias.cpu().abs() / BIAS_STEPS).clamp(min=TINY), deq_scale)
        steps_of_bias = bias.cpu().double() / deq_scale.double()
        shift = shift + steps_of_bias.round().clamp(-(2.0**62), 2.0**62).long()
    limits = torch.iinfo(torch.int32)
    if not deq_scale.isfinite().all() or (deq_scale <= 0).any():
        raise QuantizationError(
            f"{where}: a product of input_scale {inputs.scale:g} and weight_scale is not a positive float32"
        )
    if (shift < limits.min).any() or (shift > limits.max).any():
        raise QuantizationError(
            f"{where}: quant_bias does not fit int32; a bias is far larger than the outputs of its row"
        )
    return QuantizedLinear(
        weight=integers,
        input_scale=inputs.scale,
        input_offset=inputs.offset,
        deq_scale=deq_scale,
        quant_bias=shift.to(torch.int32),
        kind=W8A8S_DYNAMIC if inputs.per_token else W8A8S,
    )
