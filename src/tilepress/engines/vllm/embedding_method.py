"""vLLM's embedding on a compressed table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

import tilepress.kernels  # noqa: F401 (registers torch.ops.tilepress)
from tilepress.engines.vllm.parameters import register_compressed


class CompressedEmbeddingMethod(QuantizeMethodBase):
    """Of a token's row only the strip of 16 rows that holds it is decoded.

    Parameters of the layer: weight int8 [bytes], index int8 [8 * tiles], info int64 [5] and weight_scale
    float32 [rows of the rank], empty until `place` fills them.
    """

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        shape = (sum(output_partition_sizes), input_size_per_partition)
        register_compressed(layer, shape, {"weight_scale": torch.float32})

    def embedding(self, layer: Any, ids: Tensor) -> Tensor:
        """ids: int64 [...], rows of the rank. Returns [..., hidden] in the model's type."""
        hidden = layer.compressed_shape[1]
        rows: Tensor = torch.ops.tilepress.embed.default(
            ids, layer.weight, layer.index, layer.info, layer.weight_scale, hidden
        )
        return rows.to(layer.params_dtype)

    def apply(self, layer: nn.Module, *arguments: Any, **options: Any) -> Tensor:
        raise NotImplementedError("an embedding is looked up and not multiplied with")
