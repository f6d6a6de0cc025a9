"""The quantization method `tilepress` of vLLM, which config.json's quantization_config names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from tilepress.checkpoint import EMBEDDING
from tilepress.engines.vllm.layers import CompressedEmbeddingMethod, CompressedHeadMethod, CompressedLinearMethod
from tilepress.engines.vllm.shard import ModelShard
from tilepress.errors import UsageError
from tilepress.models.architecture import HEAD

METHOD = "tilepress"


def register() -> None:
    register_quantization_config(METHOD)(TilepressConfig)


class TilepressConfig(QuantizationConfig):
    """Tells which layers are compressed. config.json does not say: the loader opens the directory and sets `shard`."""

    def __init__(self) -> None:
        super().__init__()
        self.shard: ModelShard | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TilepressConfig:
        return cls()

    def get_name(self) -> str:
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """Return the method of a linear, head or embedding; None for other layers, such as attention, which vLLM knows.

        Raises UsageError where another loader than ours builds the model.
        """
        if not isinstance(layer, LinearBase | VocabParallelEmbedding):
            return None
        if self.shard is None:
            raise UsageError("a tilepress directory needs vLLM's --load-format auto, which is the default")
        if isinstance(layer, LinearBase):
            compressed = self.shard.shard.is_quantized(stored_name(prefix))
            return CompressedLinearMethod() if compressed else UnquantizedLinearMethod()
        if isinstance(layer, ParallelLMHead):
            compressed = self.shard.shares_table or (not self.shard.tied and self.shard.shard.is_quantized(HEAD.name))
            return CompressedHeadMethod() if compressed else UnquantizedEmbeddingMethod()
        compressed = self.shard.shares_table or self.shard.shard.is_quantized(EMBEDDING)
        return CompressedEmbeddingMethod() if compressed else UnquantizedEmbeddingMethod()


_STORED, _VLLM = "self_attn.query_key_value", "self_attn.qkv_proj"


def vllm_name(name: str) -> str:
    """Return vLLM's name for a stored name: query_key_value is its qkv_proj; all other names are the same."""
    return name.replace(_STORED, _VLLM)


def stored_name(name: str) -> str:
    """Return the stored name for vLLM's name."""
    return name.replace(_VLLM, _STORED)
