"""The embedding table, rounded to nearest, some thousand rows of it in memory at a time.

A lookup reads one row, and all rows matter alike: what a token's vector is wrong by is its own step and no other's. So
all rows have the same step, but for rows that would not fit 8 bits, and zeros are not sought.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tilepress.checkpoint import EMBEDDING, QuantizedEmbedding
from tilepress.quantize.decoder import LayerwiseDecoder
from tilepress.quantize.rate import LARGEST, entropy_of_counts, magnitude_counts
from tilepress.quantize.report import LinearReport
from tilepress.quantize.steps import SAMPLED_COLUMNS, WeightSample, refit_scale

ROWS = 8192


def quantize_embedding(
    decoder: LayerwiseDecoder, bits: float, generator: torch.Generator
) -> tuple[QuantizedEmbedding, LinearReport]:
    """The table at an entropy of `bits` bits a weight, or the most that max|row| / 127 as the least step gives."""
    sample = _sample(decoder, generator)
    steps = sample.steps(refit_scale(sample, bits))
    integers: list[Tensor] = []
    error = norm = 0.0
    for block, step in zip(_blocks(decoder), torch.split(steps, ROWS), strict=True):
        q = (block / step[:, None]).round_().clamp_(-LARGEST, LARGEST)
        error += float((q * step[:, None] - block).square().sum())
        norm += float(block.square().sum())
        integers.append(q.to(torch.int8))
    counts = torch.stack([magnitude_counts(q) for q in integers]).sum(dim=0)
    weight = torch.cat(integers)
    report = LinearReport(
        name=EMBEDDING,
        weights=weight.numel(),
        bits=entropy_of_counts(counts),
        zeros=int(counts[0]) / weight.numel(),
        relative_error=error / max(norm, 1e-30),
        clipped=0.0,
    )
    return QuantizedEmbedding(weight.cpu(), steps.cpu()), report


def _blocks(decoder: LayerwiseDecoder) -> Iterator[Tensor]:
    """The table, float32 [up to ROWS, hidden] at a time."""
    for start in range(0, decoder.vocabulary, ROWS):
        yield decoder.load(f"{EMBEDDING}.weight", slice(start, start + ROWS))


def _sample(decoder: LayerwiseDecoder, generator: torch.Generator) -> WeightSample:
    """Columns from which the step is fitted."""
    picked = torch.randperm(decoder.hidden, generator=generator)[:SAMPLED_COLUMNS]
    columns, largest = [], []
    for block in _blocks(decoder):
        columns.append(block[:, picked.to(block.device)].T)
        largest.append(block.abs().amax(dim=1))
    least = (torch.cat(largest) / LARGEST).clamp(min=1e-12)
    nearest = torch.zeros(len(picked), 1, device=least.device)
    return WeightSample(
        torch.cat(columns, dim=1), nearest, torch.ones_like(least), least, decoder.vocabulary * decoder.hidden
    )
