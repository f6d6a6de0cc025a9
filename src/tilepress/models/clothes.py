"""Architectures that compute what another one does, from tensors that are cut in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilepress.errors import CheckpointError

# Linears that Phi-3 stores as one, and what they are cut into, in the order of the rows.
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
# Fields that mean the same in both; where one is missing, what it is for Phi-3.
_FIELDS: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
    "attention_dropout": 0.0,
}
_IF_THERE = ("head_dim", "dtype", "torch_dtype", "rope_theta", "rope_parameters", "rope_scaling", "quantization_config")


def without_fused_linears(config: Mapping[str, Any], path: object) -> tuple[dict[str, Any], bool]:
    """Return config.json of the Mistral that computes the same, and True; for other than Phi-3 the config, and False.

    Raises CheckpointError, naming `path`, for a Phi-3 whose rotary embedding no Mistral has: of a part of each head, or
    with factors for long contexts.
    """
    if config.get("model_type") != "phi3":
        return dict(config), False
    rotary = config.get("rope_parameters") or {}
    partial = config.get("partial_rotary_factor", rotary.get("partial_rotary_factor", 1.0))
    scaling = config.get("rope_scaling") or rotary
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if partial != 1.0 or kind != "default":
        raise CheckpointError(
            f"{path}: Phi-3 with partial_rotary_factor {partial} and rotary embedding {kind!r}; tilepress reads Phi-3 "
            "with a plain rotary embedding of whole heads, such as Phi-4 and the models of 4096 tokens"
        )
    fields = {name: config.get(name, default) for name, default in _FIELDS.items()}
    if "pad_token_id" not in config and fields["pad_token_id"] >= fields["vocab_size"]:
        fields["pad_token_id"] = None
    fields |= {name: config[name] for name in _IF_THERE if config.get(name) is not None}
    fields["num_key_value_heads"] = config.get("num_key_value_heads") or fields["num_attention_heads"]
    if "rope_parameters" not in fields:
        fields.setdefault("rope_theta", 10000.0)
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral"} | fields, True
