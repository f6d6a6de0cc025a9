"""The embedding table, rounded to nearest, with some thousand rows in memory at a time.

A lookup reads one row, so that a token's error depends on its own weight scale only. There is no error feedback, and
zeros are not preferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.checkpoint import EMBEDDING, QuantizedEmbedding
from tilepress.codec import TILES
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.rate.rounding_rule import LARGEST
from tilepress.quantize.rate.tile_cost import coded_bits, share_of_zeros
from tilepress.quantize.rate.weight_scales import SAMPLED_COLUMNS, WeightSample, drawn_columns, refit_step_factor
from tilepress.quantize.report import LinearReport

ROWS = 8192
# Of the median row's root mean square.
NEXT_TO_ZERO = 0.01


@dataclass(frozen=True)
class EmbeddingTable:
    """sensitivity: float32 [vocabulary], p_v · E[mean_j (dloss/dx_j)²] for a token's share p_v and its vector x."""

    decoder: LayerwiseDecoder
    sensitivity: Tensor

    def blocks(self) -> Iterator[Tensor]:
        """Yield the table, float32 [up to ROWS, hidden] at a time."""
        for start in range(0, self.decoder.vocabulary, ROWS):
            yield self.decoder.load(f"{EMBEDDING}.weight", start, start + ROWS)

    def sample(self, generator: torch.Generator, coding: str = TILES) -> WeightSample:
        """Draw the columns from which the weight scales are fitted."""
        picked = torch.randperm(self.decoder.hidden, generator=generator)[:SAMPLED_COLUMNS]
        columns, least = drawn_columns(self.blocks(), picked.to(self.decoder.device))
        alike = torch.ones(len(picked), 1, device=least.device)
        return WeightSample(
            columns=columns,
            rate=torch.zeros_like(alike),
            relative=self.sensitivity.clamp(min=torch.finfo(torch.float32).tiny).rsqrt(),
            least=least,
            weights=self.decoder.vocabulary * self.decoder.hidden,
            sensitivity=self.sensitivity,
            cost=alike,
            coding=coding,
        )


def typical_tokens(decoder: LayerwiseDecoder, tokens: Tensor) -> Tensor:
    """Return, bool of the shape of tokens int64 [sequences, length], whose rows are not next to zero.

    The norm divides by such a row, so that its gradients are beyond all others and would decide for all.
    """
    size = torch.cat([decoder.embed(sequence).square().mean(dim=-1).sqrt() for sequence in tokens[:, None]])
    used = size[size > 0]
    return size > NEXT_TO_ZERO * used.median() if len(used) else size > 0


def embedding_table(decoder: LayerwiseDecoder, tokens: Tensor, typical: Tensor, squares: Tensor) -> EmbeddingTable:
    """Estimate the sensitivity of the embedding's rows.

    tokens: int64, all of the calibration text. squares: float32 [sequences, length], mean_j (dloss/dx_j)² of some of
    them. typical: `typical_tokens` of these.

    All tokens share one mean of the squares, since most occur too seldom for their own. It leaves out the first
    position, since the start token's gradient is unlike others, and tokens that are not typical. The share of a token
    is the mean of its share of the text and an even share, since another text has other tokens. With SmolLM2's
    embedding alone at 3.5 bits, on a text of another kind, the divergence is .0079 nats, and .0139 with equal weight
    scales.
    """
    counted = squares[:, 1:][typical[:, 1:]]
    mean = float(counted.mean()) if len(counted) else 0.0
    share = torch.bincount(tokens.flatten(), minlength=decoder.vocabulary).to(squares.device) / tokens.numel()
    return EmbeddingTable(decoder, mean * (share + 1.0 / decoder.vocabulary) / 2.0)


def quantize_embedding(
    table: EmbeddingTable, bits: float, generator: torch.Generator, coding: str = TILES
) -> tuple[QuantizedEmbedding, LinearReport]:
    """Quantize the table to `bits` compressed bits per weight, or fewer where scales of max|row| / 127 give less."""
    sample = table.sample(generator, coding)
    weight_scale = sample.weight_scales(refit_step_factor(sample, bits))
    weight = torch.empty(len(weight_scale), table.decoder.hidden, dtype=torch.int8)
    error = norm = loss = 0.0
    parts = (
        table.blocks(),
        torch.split(weight, ROWS),
        torch.split(weight_scale, ROWS),
        torch.split(table.sensitivity, ROWS),
    )
    for block, integers, step, sensitivity in zip(*parts, strict=True):
        q = (block / step[:, None]).round_().clamp_(-LARGEST, LARGEST)
        by_row = (q * step[:, None] - block).square().sum(dim=1)
        error += float(by_row.sum())
        loss += 0.5 * float(by_row @ sensitivity)
        norm += float(block.square().sum())
        integers.copy_(q)
    report = LinearReport(
        name=EMBEDDING,
        weights=weight.numel(),
        bits=coded_bits(weight, coding),
        zeros=share_of_zeros(weight),
        relative_error=error / max(norm, 1e-30),
        clipped=0.0,
        loss=loss,
        overflows=0.0,
    )
    return QuantizedEmbedding(weight, weight_scale.cpu()), report
