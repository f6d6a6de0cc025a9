"""Reports of a quantization, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tilepress.quantize.rate.allocation import CurvePoint
from tilepress.quantize.recipe.recipe import Recipe

# What calibrated: tilepress's own text, a file of the user's, or what the float model wrote.
DEFAULT, FILE, SELF = "default", "file", "self"


@dataclass(frozen=True)
class LinearReport:
    """One quantized linear, or the embedding.

    bits: compressed bits per weight, counted in whole tiles. zeros: share of zero weights.
    relative_error: squared error of the outputs on sampled calibration tokens with weights and activations quantized,
    as a share of their squared norm; for the embedding, the error of its values. clipped: share of the sampled input
    values that the static range clips. overflows: share of the sampled tokens with a value outside the range. loss:
    predicted increase of the loss by this error, to second order, in nats per token.
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
    """loss_before, loss_after: mean KL(float model || quantized model) in nats on held-back calibration sequences.

    kept: whether the loss became lower; otherwise the trained values are dropped.
    """

    steps: int
    loss_before: float
    loss_after: float
    kept: bool


@dataclass
class BlockReport:
    """before, after: the error of each layer's output on held-back calibration sequences, weighted by its effect on the
    loss; kept: whether it became lower, otherwise the layer keeps its integers. steps: of each layer. loss_before,
    loss_after: the divergence of the model with rounded and with trained integers from the float model on the held-back
    sequences, in nats; None where no layer's error became lower.
    """

    steps: int
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    loss_before: float | None = None
    loss_after: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the trained integers are the result, which takes a lower loss; otherwise all layers keep theirs."""
        return self.loss_before is not None and self.loss_after is not None and self.loss_after < self.loss_before

    def add(self, before: float, after: float, *, kept: bool) -> None:
        self.before.append(before)
        self.after.append(after)
        self.kept.append(kept)

    @property
    def ratio(self) -> float:
        """The geometric mean, over the layers, of the error after to that before."""
        ratios = [a / b for a, b, kept in zip(self.after, self.before, self.kept, strict=True) if kept]
        return math.prod(ratios) ** (1 / len(self.kept)) if self.kept else 1.0


@dataclass
class QuantizationReport:
    """Report on all linears of a model, on the embedding where it is quantized, the calibration and the distillation.

    The calibration had `samples` sequences of sequence_length tokens; sensitivities come from sensitivity_tokens of
    them. text: DEFAULT, FILE or SELF. limits: the reasons for fewer tokens than 128 x 2048, of "context", "memory",
    "work" (computation) and "text". curve: bits, size and loss at other weight scales. linears: as rounded, before any
    training.
    """

    recipe: Recipe
    samples: int
    sequence_length: int
    sensitivity_tokens: int
    text: str = DEFAULT
    limits: tuple[str, ...] = ()
    seconds: float = 0.0
    curve: tuple[CurvePoint, ...] = ()
    linears: list[LinearReport] = field(default_factory=list)
    blocks: BlockReport | None = None
    distillation: DistillationReport | None = None

    @property
    def calibration_tokens(self) -> int:
        return self.samples * self.sequence_length

    @property
    def loss(self) -> float:
        """Sum of `loss` over the linears, in nats per token: errors of weights and activations."""
        return sum(linear.loss for linear in self.linears)

    @property
    def bits(self) -> float:
        """Compressed bits per weight, over all linears."""
        return self._mean("bits")

    @property
    def zeros(self) -> float:
        """Share of zero weights, over all linears."""
        return self._mean("zeros")

    def _mean(self, attribute: str) -> float:
        total = sum(linear.weights * float(getattr(linear, attribute)) for linear in self.linears)
        return total / sum(linear.weights for linear in self.linears)

    def __str__(self) -> str:
        return (
            f"{self.bits:.3f} bits a weight, {self.zeros:.1%} zeros, loss {self.loss:.4f} nats a token as estimated, "
            f"calibrated on {self.samples} x {self.sequence_length} tokens, {self.seconds:.0f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values for JSON."""
        totals = {"bits": self.bits, "zeros": self.zeros, "loss": self.loss}
        return {**totals, "calibration_tokens": self.calibration_tokens, **asdict(self)}
