"""One linear in compressed form, as the engines multiply with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tilepress.codec import Compressed


@dataclass(frozen=True)
class CompressedLinear:
    """A fused linear [n, k]; scales as in QuantizedLinear.

    weight: rows in the order q, k, v or gate, up; deq_scale float32 [n]; quant_bias int32 [n].
    """

    weight: Compressed
    input_scale: float
    input_offset: int
    deq_scale: Tensor
    quant_bias: Tensor
