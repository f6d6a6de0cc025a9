"""The model that a W8A8S directory describes, in plain torch: what the engine has to compute, bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tilepress.checkpoint import EMBEDDING, QuantizedLinear, W8A8SCheckpoint
from tilepress.kernels import reference


class ReferenceLinear(nn.Module):
    """The format's definition of a quantized linear, on the plain int8 matrix.

    dynamic: tokens that leave the range have scales of their own.
    """

    def __init__(self, linear: QuantizedLinear, dynamic: bool = False) -> None:
        super().__init__()
        self.linear, self.dynamic = linear, dynamic

    def forward(self, x: Tensor) -> Tensor:
        linear = self.linear
        if self.dynamic:
            scale, offset = torch.tensor([linear.input_scale]), torch.tensor([linear.input_offset])
            sums = linear.weight.sum(1, dtype=torch.int32)
            return reference.linear(x, linear.weight, scale, offset, linear.deq_scale, linear.quant_bias, sums)
        x_q = torch.round(x.float() / torch.tensor(linear.input_scale)) + linear.input_offset
        x_q = x_q.clamp(-128, 127).to(torch.int32)
        accumulated = x_q @ linear.weight.to(torch.int32).T + linear.quant_bias
        return (accumulated.float() * linear.deq_scale).to(x.dtype)


def reference_model(source: Path, quantized: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The float model of `source` with the tensors of the W8A8S directory `quantized` made from it."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    checkpoint = W8A8SCheckpoint(quantized)
    for prefix in checkpoint.quantized_linears():
        linear = checkpoint.linear(prefix)
        dynamic = checkpoint.activations == "overflow" or linear.kind == "W8A8S_DYNAMIC"
        model.set_submodule(prefix, ReferenceLinear(linear, dynamic))
    if checkpoint.is_quantized(EMBEDDING) or checkpoint.shares_table:
        embedding = checkpoint.embedding()
        rows = embedding.weight.float() * embedding.weight_scale[:, None]
        model.set_submodule(EMBEDDING, nn.Embedding.from_pretrained(rows.to(dtype)))
    for name, parameter in model.named_parameters():
        if name in checkpoint.float_names():
            parameter.data = checkpoint.float_tensor(name).to(dtype)
    return model


def logits_of(model: PreTrainedModel, tokens: int = 24) -> Tensor:
    """Logits of a fixed batch of two sequences."""
    ids = torch.randint(0, 256, (2, tokens), generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        logits: Tensor = model(ids).logits
    return logits
