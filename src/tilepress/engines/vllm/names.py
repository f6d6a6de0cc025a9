"""What vLLM calls the linears and tensors of a W8A8SC part."""

from __future__ import annotations

_STORED, _VLLM = "self_attn.query_key_value", "self_attn.qkv_proj"


def vllm_name(name: str) -> str:
    """The name in the model of "model.layers.0.self_attn.query_key_value.weight", a part's; all others are the same."""
    return name.replace(_STORED, _VLLM)


def stored_name(name: str) -> str:
    """The other way round."""
    return name.replace(_VLLM, _STORED)
