"""W8A8S directories made from tiny float checkpoints by rounding to nearest: quick, and bad only in quality."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tilepress.checkpoint import (
    EMBEDDING,
    FloatCheckpoint,
    QuantizedEmbedding,
    QuantizedLinear,
    W8A8SWriter,
    round_input_scale,
)
from tilepress.checkpoint.description import W8A8S, W8A8S_DYNAMIC
from tilepress.models.architecture import layer_prefix
from tilepress.models.layer_inputs import LINEARS

# Activation steps and zero points that suit the random weights of tiny_models, by what the linear reads.
_ACTIVATIONS = {"self_attn.o_proj": (0.02, 5), "mlp.down_proj": (0.01, -7)}
_AFTER_NORM = (0.04, 3)


def make_w8a8s(
    source: Path,
    out: Path,
    *,
    dtype: str = "float16",
    levels: int = 127,
    head: bool = False,
    embeddings: bool = False,
    shared: bool = False,
    activations: str | None = None,
    narrow: float = 1.0,
    float_linears: Iterable[str] = (),
    extra: dict[str, Tensor] | None = None,
) -> Path:
    """Quantize the float checkpoint `source` into `out`.

    levels: the largest weight of a row; small ones give many zeros, as sparse quantization does. head: quantize it too,
    which unties a tied one. embeddings: the embedding too. shared: the head of a tied one, which stays its embedding.
    float_linears: names such as "mlp.down_proj" or "model.layers.1.mlp.down_proj" that stay float, as the vendor's
    tool leaves them.
    activations: what the description says the directory is made for; "per-token" makes down_proj W8A8S_DYNAMIC,
    "dynamic" all linears but a tied head.
    narrow: ranges are so many times those that suit the activations: with less than 1 tokens leave them.
    extra: further float tensors by name, such as norm biases.
    """
    checkpoint = FloatCheckpoint(source)
    kept = set(float_linears)
    prefixes = {
        f"{layer_prefix(layer)}.{name}": name
        for layer in range(checkpoint.shape.layers)
        for name in LINEARS
        if not kept & {name, f"{layer_prefix(layer)}.{name}"}
    }
    if head or shared:
        prefixes["lm_head"] = "lm_head"
    table = f"{EMBEDDING}.weight"
    description = {} if activations is None else {"activations": activations}
    with W8A8SWriter(out, checkpoint, dtype=dtype, description=description) as writer:
        if (head or shared) and checkpoint.shape.tied:
            scale = round_input_scale(_AFTER_NORM[0] * narrow, dtype, "lm_head")
            weight = checkpoint.tensor(table).float()
            writer.add_linear("lm_head", _round_to_nearest(weight, None, scale, _AFTER_NORM[1], levels))
        for name in checkpoint.names():
            prefix, _, leaf = name.rpartition(".")
            if shared and name == table:
                continue
            if embeddings and name == table:
                steps, integers = _integers(checkpoint.tensor(name).float(), levels)
                writer.add_embedding(QuantizedEmbedding(integers, steps))
            elif prefix not in prefixes:
                writer.add_float(name, checkpoint.tensor(name))
            elif leaf == "weight":
                bias = checkpoint.tensor(f"{prefix}.bias").float() if checkpoint.has(f"{prefix}.bias") else None
                step, offset = _ACTIVATIONS.get(prefixes[prefix], _AFTER_NORM)
                scale = round_input_scale(step * narrow, dtype, prefix)
                linear = _round_to_nearest(checkpoint.tensor(name).float(), bias, scale, offset, levels)
                dynamic = activations == "dynamic" or (
                    activations == "per-token" and prefixes[prefix] == "mlp.down_proj"
                )
                writer.add_linear(prefix, replace(linear, kind=W8A8S_DYNAMIC if dynamic else W8A8S))
        for name, tensor in (extra or {}).items():
            writer.add_float(name, tensor)
    return out


def _round_to_nearest(weight: Tensor, bias: Tensor | None, scale: float, offset: int, levels: int) -> QuantizedLinear:
    weight_scale, rounded = _integers(weight, levels)
    deq_scale = weight_scale * scale
    quant_bias = -offset * rounded.sum(dim=1, dtype=torch.float32)
    if bias is not None:
        quant_bias += bias / deq_scale
    return QuantizedLinear(rounded, scale, offset, deq_scale, torch.round(quant_bias).to(torch.int32))


def _integers(weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Steps [n] and int8 [n, k]."""
    steps = weight.abs().amax(dim=1).clamp(min=1e-6) / levels
    return steps, torch.round(weight / steps[:, None]).to(torch.int8)
