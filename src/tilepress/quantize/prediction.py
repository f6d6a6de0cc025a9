"""What rounding adds to the loss, foretold to second order from sampled weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tilepress.quantize.rate import decide
from tilepress.quantize.steps import WeightSample


@dataclass(frozen=True)
class CurvePoint:
    """factor: common factor of the steps. bits: a weight. size: bytes of the weight files of the W8A8SC directory.

    loss: predicted increase of the loss by rounding weights, in nats a token.
    """

    factor: float
    bits: float
    size: int
    loss: float


def predicted_loss(sample: WeightSample, scale: float) -> float:
    """½ Σ_o G_o Δ_o² Σ_j c_j E[(w_oj / Δ_o - q_oj)²], in nats a token, at a common factor of the steps.

    The second-order increase of the loss under the diagonal of the Fisher information, errors of different channels and
    tokens taken for independent; error feedback is in c. The mean over j is over the sampled columns.
    """
    return loss_at_lengths(sample, scale, sample.rate_at(scale)[1])


def loss_at_lengths(sample: WeightSample, scale: float, lengths: Tensor) -> float:
    """`predicted_loss` where the code lengths of that factor, of `sample.rate_at`, are known."""
    steps = sample.steps(scale)
    values = sample.columns / steps
    integers = decide(values, lengths, sample.rate)
    by_row = ((values - integers).square_() * sample.cost).mean(dim=0)
    columns = sample.weights // len(steps)
    return 0.5 * columns * float((sample.sensitivity * steps.square() * by_row).sum())
