"""What the user may choose about a quantization."""

from __future__ import annotations

from dataclasses import dataclass

from tilepress.errors import UsageError

DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """Settings of one quantization. Raises UsageError for a value out of range.

    bits: order-0 entropy of the integers in bits a weight, over all quantized linears together.
    head: quantize the output head too. embeddings: and the embedding table, at `bits` by itself.
    dtype: stored type of norms, embeddings and input scales, "float16" or "bfloat16".
    samples, sequence_length: calibration sequences and their length in tokens (capped by the model's context).
    seed: of the order of the calibration text, the sampled rows and the sampled labels.
    damping: share of the mean diagonal added to each Hessian's diagonal (GPTQ's "percdamp").
    """

    bits: float = 4.0
    head: bool = False
    embeddings: bool = False
    dtype: str = "float16"
    samples: int = 64
    sequence_length: int = 512
    seed: int = 0
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 1.0 <= self.bits <= 7.5:
            raise UsageError(f"bits is {self.bits}; choose a number from 1 to 7.5 (bits a weight)")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}")
        if self.samples < 1:
            raise UsageError(f"samples is {self.samples}; at least 1 calibration sequence is needed")
        if self.sequence_length < 8:
            raise UsageError(f"sequence_length is {self.sequence_length}; choose at least 8 tokens")
        if not 0.0 < self.damping <= 1.0:
            raise UsageError(f"damping is {self.damping}; choose a share above 0 and up to 1 (0.01 is usual)")
