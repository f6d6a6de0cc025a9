"""One linear in compressed form, as the engines multiply with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tilepress.checkpoint.description import W8A8S
from tilepress.codec import Compressed
from tilepress.errors import BitstreamError


class Scales(NamedTuple):
    """What a compressed linear has beside its weight: see CompressedLinear."""

    input_scale: float
    input_offset: int
    deq_scale: Tensor
    quant_bias: Tensor
    weight_sums: Tensor | None
    kind: str


@dataclass(frozen=True)
class CompressedLinear:
    """A fused linear [n, k]; scales as in QuantizedLinear.

    weight: rows in the order q, k, v or gate, up; deq_scale float32 [n]; quant_bias int32 [n]. weight_sums: int32 [n],
    the sums over the weight's rows, where tokens that overflow get a dynamic scale; None where they are clamped.
    """

    weight: Compressed
    input_scale: float
    input_offset: int
    deq_scale: Tensor
    quant_bias: Tensor
    weight_sums: Tensor | None = None
    kind: str = W8A8S

    def weight_scale(self) -> Tensor:
        """float32 [n]: W is about weight_scale[:, None] * weight."""
        return self.deq_scale / self.input_scale


@contextmanager
def naming_damage(path: Path, prefix: str) -> Iterator[None]:
    """Context for reading the bytes of the linear `prefix` in `path`: a BitstreamError names both."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {prefix}: {error}") from None
