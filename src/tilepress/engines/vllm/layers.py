"""vLLM's linears and head on compressed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

import tilepress.kernels  # noqa: F401 (registers torch.ops.tilepress)


class CompressedLinearMethod(LinearMethodBase):
    """y = torch.ops.tilepress.linear(x, ...): tiles are decoded during the multiplication.

    Parameters of the layer, with the rank's n and k: weight int8 [bytes], index int8 [8 * tiles],
    info int64 [5], input_scale float32 [1], input_offset int32 [1], deq_scale float32 [n], quant_bias int32 [n],
    and weight_sums int32 [n], or [0] for a linear whose tokens are clamped. They are empty until `place` fills them.
    A bias is in quant_bias.
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
        floats = dict.fromkeys(("input_scale", "deq_scale"), torch.float32)
        integers = dict.fromkeys(("input_offset", "quant_bias", "weight_sums"), torch.int32)
        register_compressed(layer, (sum(output_partition_sizes), input_size_per_partition), floats | integers)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = torch.ops.tilepress.linear.default(
            x,
            layer.weight,
            layer.index,
            layer.info,
            layer.input_scale,
            layer.input_offset,
            layer.deq_scale,
            layer.quant_bias,
            layer.weight_sums,
        )
        return y if bias is None else y + bias


class CompressedHeadMethod(CompressedLinearMethod):
    """The method of the head, whose rows vLLM pads to a multiple of 64: logits of padding rows are 0."""

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        logits = super().apply(layer, x, bias)
        missing = layer.compressed_shape[0] - logits.shape[-1]
        return logits if missing == 0 else nn.functional.pad(logits, (0, missing))

    def tie_weights(self, layer: nn.Module, embed_tokens: nn.Module) -> nn.Module:
        """Do nothing: `place` gives both the same memory."""
        return layer


class CompressedEmbeddingMethod(QuantizeMethodBase):
    """The method of the embedding: only the strip of 16 rows that holds a token's row is decoded.

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


def register_compressed(layer: Any, shape: tuple[int, int], operands: Mapping[str, torch.dtype]) -> None:
    """Register a compressed weight's parameters, and `operands` by their types, empty until `data` is replaced.

    shape: [n, k] of the rank's weight.
    """
    layer.compressed_shape = shape
    code = {"weight": torch.int8, "index": torch.int8, "info": torch.int64}
    for name, dtype in {**code, **operands}.items():
        layer.register_parameter(name, nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False))
