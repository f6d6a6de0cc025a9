"""What a quantization did, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tilepress.quantize.rate.allocation import CurvePoint
from tilepress.quantize.recipe.recipe import Recipe


@dataclass(frozen=True)
class LinearReport:
    """One quantized linear, or the embedding.

    bits: what the codec takes a weight, in whole tiles. zeros: share of zero weights.
    relative_error: squared error of the outputs on sampled calibration tokens, weights and activations quantized, as a
    share of their squared norm; of the embedding, of its own values. clipped: share of the sampled input values outside
    the static range, where they are clipped. overflows: share of the sampled tokens with a value outside. loss: what
    this error adds to the loss, to second order, in nats a token.
    """

    name: str
    weights: int
    bits: float
    zeros: float
    relative_error: float
    clipped: float
    loss: float
    overflows: float


@dataclass(frozen=True)
class DistillationReport:
    """loss_before, loss_after: mean KL(float model || quantized model) in nats on calibration sequences held back.

    kept: whether the loss became lower; otherwise what was trained is dropped.
    """

    steps: int
    loss_before: float
    loss_after: float
    kept: bool


@dataclass
class QuantizationReport:
    """All linears of a model, the embedding where it is quantized, what the calibration was, and the distillation.

    samples sequences of sequence_length tokens; sensitivities from sensitivity_tokens of them. limits: what made these
    fewer than 128 x 2048, of "context", "memory", "work", "text". curve: what other steps would have given.
    """

    recipe: Recipe
    samples: int
    sequence_length: int
    sensitivity_tokens: int
    limits: tuple[str, ...] = ()
    seconds: float = 0.0
    curve: tuple[CurvePoint, ...] = ()
    linears: list[LinearReport] = field(default_factory=list)
    distillation: DistillationReport | None = None

    @property
    def calibration_tokens(self) -> int:
        return self.samples * self.sequence_length

    @property
    def loss(self) -> float:
        """Sum of what each linear's error adds to the loss, nats a token: weights and activations."""
        return sum(linear.loss for linear in self.linears)

    @property
    def bits(self) -> float:
        """Bits a weight that the codec takes, over all linears."""
        return self._mean("bits")

    @property
    def zeros(self) -> float:
        """Share of zero weights over all linears."""
        return self._mean("zeros")

    def _mean(self, attribute: str) -> float:
        total = sum(linear.weights * float(getattr(linear, attribute)) for linear in self.linears)
        return total / sum(linear.weights for linear in self.linears)

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values for JSON."""
        totals = {"bits": self.bits, "zeros": self.zeros, "loss": self.loss}
        return {**totals, "calibration_tokens": self.calibration_tokens, **asdict(self)}
