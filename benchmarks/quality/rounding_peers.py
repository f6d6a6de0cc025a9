"""Other ways to quantize a decoder's linears, in plain torch: what quality.py compares with.

All see the same calibration tokens as ours and the inputs of the float model; nothing is folded. A matrix is all
linears that read one input, one below the other, as the codec gets them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from tilepress import codec
from tilepress.models.layer_inputs import FEEDS
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.rounding.gptq import round_weights
from tilepress.quantize.statistics.hessian import HessianFactor, factorize
from tilepress.quantize.statistics.input_statistics import InputStatistics

DAMPING = 0.01
NO_RATE = torch.zeros(128)
BLOCK = 128


@dataclass(frozen=True)
class Matrix:
    """weight float32 [n, k] of the linears `names`, `rows` of each, and the factor of their input's Hessian."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    weight: Tensor
    factor: HessianFactor

    def cut(self, weight: Tensor) -> dict[str, Tensor]:
        """Another weight of this shape by the linears' names."""
        return dict(zip(self.names, weight.split(self.rows), strict=True))


M = TypeVar("M", bound=Matrix)


@dataclass(frozen=True)
class Quantized:
    """weights: dequantized, float32, by name. bits: stored, a weight."""

    weights: dict[str, Tensor]
    bits: float


def matrices(decoder: LayerwiseDecoder, statistics: Sequence[Mapping[str, InputStatistics]]) -> list[Matrix]:
    """Of every layer, with the statistics of its inputs by the names of FEEDS."""
    result = []
    for index, inputs in enumerate(statistics):
        with decoder.layer(index) as layer:
            for feed in FEEDS:
                weights = [layer.get_submodule(reader).weight.clone() for reader in feed.consumers]
                names = tuple(f"model.layers.{index}.{reader}.weight" for reader in feed.consumers)
                factor = factorize(inputs[feed.name].hessian, DAMPING, names[0])
                result.append(Matrix(names, tuple(map(len, weights)), torch.cat(weights), factor))
    return result


def nearest(all_of: list[Matrix], bits: float) -> Quantized:
    """Round to nearest, step proportional to the row's standard deviation, the factor fitted to the compressed size."""
    return fit(
        all_of, bits, _deviations, lambda matrix, steps: (matrix.weight / steps[:, None]).round().clamp(-127, 127)
    )


def gptq(all_of: list[Matrix], bits: float) -> Quantized:
    """GPTQ (Frantar et al. 2022) in the order of falling diagonals, with the steps of `nearest`."""
    return fit(
        all_of, bits, _deviations, lambda matrix, steps: round_weights(matrix.weight, steps, matrix.factor, NO_RATE)
    )


def nearest_int8(all_of: list[Matrix]) -> Quantized:
    """Round to nearest, step max|row| / 127."""
    return _apply(all_of, _int8_steps, lambda matrix, steps: (matrix.weight / steps[:, None]).round())


def sparsegpt_int8(all_of: list[Matrix]) -> Quantized:
    """SparseGPT (Frantar & Alistarh 2023) at 50 %, what is left rounded to int8 with step max|row| / 127."""

    def rounded(matrix: Matrix, steps: Tensor) -> Tensor:
        kept = torch.empty(0)

        def choose(start: int, block: Tensor) -> None:
            nonlocal kept
            saliency = (block * steps).square() * matrix.factor.cost[start : start + len(block), None]
            kept = saliency > saliency.flatten().kthvalue(saliency.numel() // 2).values

        def quantize(j: int, column: Tensor) -> Tensor:
            return torch.where(kept[j % BLOCK], column.round().clamp(-127, 127), 0.0)

        columns = (matrix.weight / steps[:, None]).T[matrix.factor.order]
        return _with_feedback(matrix, columns, quantize, choose)

    return _apply(all_of, _int8_steps, rounded)


def gptq_int4(all_of: list[Matrix]) -> Quantized:
    """GPTQ to asymmetric int4 in groups of 128 columns whose scales and zeros are those of the float weights."""
    weights: dict[str, Tensor] = {}
    for matrix in all_of:
        n, k = matrix.weight.shape
        scale, zero = torch.empty(n, k), torch.empty(n, k)
        for start in range(0, k, BLOCK):
            group = matrix.weight[:, start : start + BLOCK]
            low, high = group.amin(1, keepdim=True).clamp(max=0), group.amax(1, keepdim=True).clamp(min=0)
            step = ((high - low) / 15).clamp(min=1e-9)
            scale[:, start : start + BLOCK], zero[:, start : start + BLOCK] = step, (-low / step).round()
        order = matrix.factor.order
        step, offset = scale.T[order], zero.T[order]

        def quantize(j: int, column: Tensor, step: Tensor = step, offset: Tensor = offset) -> Tensor:
            return ((column / step[j]).round() + offset[j]).clamp(0, 15).sub(offset[j]) * step[j]

        weights |= matrix.cut(_with_feedback(matrix, matrix.weight.T[order], quantize))
    groups = sum(len(matrix.weight) * -(-matrix.weight.shape[1] // BLOCK) for matrix in all_of)
    return Quantized(weights, 4 + (16 + 4) * groups / sum(matrix.weight.numel() for matrix in all_of))


def fit(
    all_of: Sequence[M],
    bits: float,
    relative: Callable[[M], Tensor],
    rounded: Callable[[M, Tensor], Tensor],
    factor: float = 0.3,
) -> Quantized:
    """Steps `relative` float32 [n] times a factor, which makes the codec store `bits` bits a weight, to 0.01.

    rounded: integers [n, k] of a matrix for steps [n]. factor: the first to try.
    """
    for _ in range(6):

        def steps(matrix: M, factor: float = factor) -> Tensor:
            return torch.maximum(factor * relative(matrix), _int8_steps(matrix))

        result = _apply(all_of, steps, rounded)
        if abs(result.bits - bits) < 0.01:
            break
        factor *= 2.0 ** (result.bits - bits)
    return result


def _with_feedback(
    matrix: Matrix,
    columns: Tensor,
    quantize: Callable[[int, Tensor], Tensor],
    begin: Callable[[int, Tensor], None] = lambda start, block: None,
) -> Tensor:
    """[n, k] from columns [k, n] in the factor's order: each quantized, its error spread over those that follow.

    begin: told where each block of columns starts and what is left of it, before its first column is quantized.
    """
    remaining, result = columns.clone(), torch.empty_like(columns)
    feedback = matrix.factor.feedback
    for start in range(0, len(columns), BLOCK):
        stop = min(start + BLOCK, len(columns))
        block = remaining[start:stop]
        begin(start, block)
        for j in range(start, stop):
            column = block[j - start]
            result[j] = quantize(j, column)
            column -= result[j]
            block[j - start + 1 :].addr_(feedback[j, j + 1 : stop], column, alpha=-1.0)
        remaining[stop:].addmm_(feedback[start:stop, stop:].T, block, alpha=-1.0)
    in_place = torch.empty_like(result)
    in_place[matrix.factor.order] = result
    return in_place.T.contiguous()


def _int8_steps(matrix: Matrix) -> Tensor:
    return (matrix.weight.abs().amax(dim=1) / 127).clamp(min=1e-12)


def _apply(all_of: Sequence[M], steps_of: Callable[[M], Tensor], rounded: Callable[[M, Tensor], Tensor]) -> Quantized:
    weights: dict[str, Tensor] = {}
    stored = count = 0
    for matrix in all_of:
        steps = steps_of(matrix)
        q = rounded(matrix, steps)
        weights |= matrix.cut(q * steps[:, None])
        stored += codec.encode_entropy(q.to(torch.int8).numpy()).nbytes
        count += q.numel()
    return Quantized(weights, 8 * stored / count)


def _deviations(matrix: Matrix) -> Tensor:
    return matrix.weight.std(dim=1)
