"""What a quantization did, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LinearReport:
    """One quantized linear, or the embedding. bits: order-0 entropy a weight. zeros: share of zero weights.

    relative_error: squared error of the outputs on sampled calibration tokens, weights and activations quantized, as a
    share of their squared norm; of the embedding, of its own values. clipped: share of the sampled input values outside
    the static range.
    """

    name: str
    weights: int
    bits: float
    zeros: float
    relative_error: float
    clipped: float


@dataclass
class QuantizationReport:
    """All linears of a model, the embedding where it is quantized, and what the calibration was."""

    calibration_tokens: int
    sensitivity_tokens: int
    seconds: float = 0.0
    linears: list[LinearReport] = field(default_factory=list)

    @property
    def bits(self) -> float:
        """Order-0 entropy in bits a weight over all linears."""
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
        return {"bits": self.bits, "zeros": self.zeros, **asdict(self)}
