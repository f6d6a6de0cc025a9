"""A Llama directory in Qwen2's clothes: the same weights, and biases of zero on q, k and v.

    python -m benchmarks.models.as_qwen2 DIR OUT

Both compute the same function, so that quantization has to give the same integers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from benchmarks.models.float_directory import float_directory

from tilepress.checkpoint import FloatCheckpoint

BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
# Of the config, what Llama's has and Qwen2's has not.
LEFT_OUT = ("attention_bias", "mlp_bias", "pretraining_tp", "rope_interleaved", "is_llama_config")


def as_qwen2(llama: Path, out: Path) -> None:
    """Write `out`, a float directory. Raises SystemExit where the Llama has biases of its own."""
    source = FloatCheckpoint(llama)
    config = json.loads((llama / "config.json").read_text())
    if config["model_type"] != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise SystemExit(f"{llama}: a Llama without biases is needed")
    config = {key: value for key, value in config.items() if key not in LEFT_OUT}
    config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}
    tensors = {name: source.read(name) for name in source.names()}
    for layer in range(source.shape.layers):
        for linear in BIASED:
            weight = tensors[f"model.layers.{layer}.{linear}.weight"]
            tensors[f"model.layers.{layer}.{linear}.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
    with float_directory(out, config, llama, shards=1) as save:
        save(tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    as_qwen2(options.llama, options.out)


if __name__ == "__main__":
    main()
