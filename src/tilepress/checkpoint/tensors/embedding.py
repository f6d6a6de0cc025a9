"""The embedding table as integers, plain and compressed, and its two tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.checkpoint.description import W8A8S, W8A8S_DYNAMIC, W8A8SC, Description
from tilepress.checkpoint.safetensors.reader import TensorFiles
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear
from tilepress.checkpoint.tensors.quantized_linear import QuantizedLinear
from tilepress.codec import Compressed
from tilepress.errors import CheckpointError
from tilepress.models.architecture import HEAD, ModelShape

EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True)
class QuantizedEmbedding:
    """weight int8 [vocab, hidden]; weight_scale float32 [vocab]: a token's vector is about weight_scale * weight."""

    weight: Tensor
    weight_scale: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return both tensors by the names that they are stored under."""
        return {f"{EMBEDDING}.weight": self.weight, f"{EMBEDDING}.weight_scale": self.weight_scale}

    @classmethod
    def of_head(cls, head: QuantizedLinear) -> QuantizedEmbedding:
        """The embedding that shares the table of `head`."""
        return cls(head.weight, head.weight_scale())

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.weight_scale.nbytes


@dataclass(frozen=True)
class CompressedEmbedding:
    """weight: int8 [vocab, hidden], compressed; weight_scale float32 [vocab]."""

    weight: Compressed
    weight_scale: Tensor

    @classmethod
    def of_head(cls, head: CompressedLinear) -> CompressedEmbedding:
        """The embedding that shares the table of `head`; the bytes are the same memory."""
        return cls(head.weight, head.weight_scale())

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.weight_scale.nbytes


def shares_table(shape: ModelShape, description: Description, stored: TensorFiles) -> bool:
    """Return True if the embedding is the quantized head's table: the model is tied and stores no other table.

    stored: the files of the directory or of the part.
    """
    table = f"{EMBEDDING}.weight"
    alone = table not in stored and table not in description.types
    return shape.tied and alone and description.types.get(f"{HEAD.name}.weight") in (W8A8S, W8A8S_DYNAMIC, W8A8SC)


def check_weight_scale(weight_scale: Tensor) -> Tensor:
    """Return `weight_scale`. Raises CheckpointError for a value that cannot be a scale; the caller adds the file."""
    bad = ~torch.isfinite(weight_scale) | (weight_scale < 0)
    if bool(bad.any()):
        token = int(bad.nonzero()[0])
        raise CheckpointError(
            f"{EMBEDDING}.weight_scale of token {token} is {float(weight_scale[token])}; it has to be finite and not "
            "negative, quantize the model again"
        )
    return weight_scale


def tied_to_integers(path: object) -> CheckpointError:
    """Return the error for a model whose embedding is quantized and that stores no head."""
    return CheckpointError(
        f"{path}: {EMBEDDING}.weight is int8 and lm_head.weight is missing; a quantized embedding is no head, "
        "quantize the model again with --embeddings --head"
    )
