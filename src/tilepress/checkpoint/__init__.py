"""The directory kinds on disk: float (Hugging Face), W8A8S and W8A8SC. See docs/reference/formats.md."""

from __future__ import annotations

from tilepress.checkpoint.float_checkpoint import FloatCheckpoint
from tilepress.checkpoint.open import Checkpoint, open_checkpoint
from tilepress.checkpoint.sharding.shard import Shard
from tilepress.checkpoint.summary import Summary, summarize
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear
from tilepress.checkpoint.tensors.embedding import EMBEDDING, CompressedEmbedding, QuantizedEmbedding
from tilepress.checkpoint.tensors.quantized_linear import QuantizedLinear, round_input_scale
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8s_writer import W8A8SWriter
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint
from tilepress.models.architecture import (
    GROUPS,
    Architecture,
    FusedLinears,
    ModelShape,
    architecture_of,
    layer_prefix,
)

__all__ = [
    "EMBEDDING",
    "GROUPS",
    "Architecture",
    "Checkpoint",
    "CompressedEmbedding",
    "CompressedLinear",
    "FloatCheckpoint",
    "FusedLinears",
    "ModelShape",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "Shard",
    "Summary",
    "W8A8SCCheckpoint",
    "W8A8SCheckpoint",
    "W8A8SWriter",
    "architecture_of",
    "layer_prefix",
    "open_checkpoint",
    "round_input_scale",
    "summarize",
]
