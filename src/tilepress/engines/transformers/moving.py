"""A quantized model from the CPU to a CUDA device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tilepress.codec import Compressed, validate
from tilepress.engines.transformers.compressed_embedding import CompressedEmbedding
from tilepress.engines.transformers.compressed_linear import CompressedLinear
from tilepress.errors import BitstreamError

BYTES = ("weight", "index", "info")


def to_cuda(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """`model`, moved; a table that head and embedding share stays one.

    Kernels on the device cannot report damage: BitstreamError, with the layer's name, for what the header of any tile
    tells is raised before.
    """
    for name, module in model.named_modules():
        if isinstance(module, CompressedLinear | CompressedEmbedding):
            _validate(name, module)
    decoder: Any = model
    embedding, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    shared = _same_bytes(embedding, head)
    decoder.to(device)
    if shared:
        for name in BYTES:
            setattr(embedding, name, getattr(head, name))
    return model


def _validate(name: str, module: CompressedLinear | CompressedEmbedding) -> None:
    try:
        validate(Compressed(module.weight.numpy(), module.index.numpy(), module.info.numpy()))
    except BitstreamError as error:
        raise BitstreamError(f"{name}: {error}; get the directory again") from None


def _same_bytes(embedding: nn.Module | None, head: nn.Module | None) -> bool:
    return (
        isinstance(embedding, CompressedEmbedding)
        and isinstance(head, CompressedLinear)
        and embedding.weight.data_ptr() == head.weight.data_ptr()
    )
