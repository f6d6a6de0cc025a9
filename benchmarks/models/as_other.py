"""A Llama directory in another architecture's clothes.

The weights are the same; for Qwen2 with biases of zero on q, k and v, for Phi-3 with q, k and v fused to one tensor,
and gate and up.

    python -m benchmarks.models.as_other qwen2|mistral|phi3 DIR OUT

All compute the same function, so that quantization has to give the same integers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.models.float_directory import float_directory

from tilepress.checkpoint import FloatCheckpoint
from tilepress.models.clothes import FUSED

BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# Of the config, what Llama's has and the others' have not.
LEFT_OUT = ("attention_bias", "mlp_bias", "pretraining_tp", "rope_interleaved", "is_llama_config")
# What each has instead.
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False},
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "sliding_window": None,
        "original_max_position_embeddings": None,
        "pad_token_id": None,
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
}


def as_other(kind: str, llama: Path, out: Path) -> None:
    """Write `out`, a float directory of model_type `kind`. Raises SystemExit where the Llama has biases of its own."""
    config, source = llama_without_biases(llama)
    tensors = {name: source.read(name) for name in source.names()}
    if kind == "qwen2":
        for layer in range(source.shape.layers):
            for linear in BIASED:
                weight = tensors[f"model.layers.{layer}.{linear}.weight"]
                tensors[f"model.layers.{layer}.{linear}.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    added = dict(CONFIGS[kind])
    if kind == "phi3":
        added["original_max_position_embeddings"] = config["max_position_embeddings"]
        for layer in range(source.shape.layers):
            for fused, members in FUSED.items():
                parts = [tensors.pop(f"model.layers.{layer}.{member}.weight") for member in members]
                tensors[f"model.layers.{layer}.{fused}.weight"] = torch.cat(parts)
    with float_directory(out, config | added, llama, shards=1) as save:
        save(tensors)


def llama_without_biases(llama: Path) -> tuple[dict[str, Any], FloatCheckpoint]:
    """The fields of config.json that other architectures have too, and the checkpoint. SystemExit for other models."""
    config = json.loads((llama / "config.json").read_text())
    if config["model_type"] != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise SystemExit(f"{llama}: a Llama without biases is needed")
    return {key: value for key, value in config.items() if key not in LEFT_OUT}, FloatCheckpoint(llama)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=CONFIGS)
    parser.add_argument("llama", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    as_other(options.kind, options.llama, options.out)


if __name__ == "__main__":
    main()
