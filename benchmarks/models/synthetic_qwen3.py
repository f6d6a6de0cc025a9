"""A float checkpoint with the true widths of a Qwen3 and few layers, to measure memory and time without a hub.

    python -m benchmarks.models.synthetic_qwen3 SIZE OUT --tokenizer DIR [--layers 2] [--seed 0]

SIZE is 0.6B, 1.7B, 4B, 8B, 14B or 32B. OUT is a Hugging Face directory in bfloat16, a shard a layer, written one after
the other: the script holds one shard. DIR is any directory with a tokenizer of no more than 151,936 tokens.

Weights are distributed like real ones: a Gaussian bulk with heavier tails (a Gaussian whose deviation is log-normal),
rows and columns of different size, one input channel in 500 four times as large, norm gains that vary and are large in
one channel of 500.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.models.float_directory import float_directory
from torch import Tensor

VOCABULARY = 151_936
HEAD_DIM = 128
KV_HEADS = 8
BLOCK = 1024


@dataclass(frozen=True)
class Size:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    tied: bool = False


SIZES = {
    "0.6B": Size(1024, 3072, 28, 16, tied=True),
    "1.7B": Size(2048, 6144, 28, 16, tied=True),
    "4B": Size(2560, 9728, 36, 32, tied=True),
    "8B": Size(4096, 12288, 36, 32),
    "14B": Size(5120, 17408, 40, 40),
    "32B": Size(5120, 25600, 64, 64),
}


def make(size: Size, out: Path, tokenizer: Path, layers: int, seed: int = 0) -> None:
    """The directory `out`, which appears when it is whole."""
    generator = torch.Generator().manual_seed(seed)
    with float_directory(out, config(size, layers), tokenizer, shards=layers + (1 if size.tied else 2)) as save:
        gain = _gain(size.hidden, 2.0, generator)
        table = _matrix(VOCABULARY, size.hidden, 0.02, generator)
        save({"model.embed_tokens.weight": table, "model.norm.weight": gain})
        del table
        for layer in range(layers):
            save({f"model.layers.{layer}.{name}": tensor for name, tensor in _layer(size, generator)})
        if not size.tied:
            save({"lm_head.weight": _matrix(VOCABULARY, size.hidden, 0.02, generator)})


def config(size: Size, layers: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": size.tied,
        "torch_dtype": "bfloat16",
    }


def _layer(size: Size, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a layer, whose output varies about as much as its input."""
    hidden, wide, queries, keys = size.hidden, size.intermediate, size.heads * HEAD_DIM, KV_HEADS * HEAD_DIM
    for name, n, k in (
        ("self_attn.q_proj", queries, hidden),
        ("self_attn.k_proj", keys, hidden),
        ("self_attn.v_proj", keys, hidden),
        ("self_attn.o_proj", hidden, queries),
        ("mlp.gate_proj", wide, hidden),
        ("mlp.up_proj", wide, hidden),
        ("mlp.down_proj", hidden, wide),
    ):
        yield f"{name}.weight", _matrix(n, k, 0.7 * k**-0.5, generator)
    for name, channels in (
        ("input_layernorm", hidden),
        ("post_attention_layernorm", hidden),
        ("self_attn.q_norm", HEAD_DIM),
        ("self_attn.k_norm", HEAD_DIM),
    ):
        yield f"{name}.weight", _gain(channels, 1.0, generator)


def _matrix(n: int, k: int, deviation: float, generator: torch.Generator) -> Tensor:
    """bfloat16 [n, k], made some rows at a time; kurtosis about 3 · exp(4 · 0.25²)."""
    columns = torch.exp(0.2 * torch.randn(k, generator=generator)) * deviation
    columns[torch.rand(k, generator=generator) < 0.002] *= 4
    rows = torch.exp(0.2 * torch.randn(n, 1, generator=generator))
    whole = torch.empty(n, k, dtype=torch.bfloat16)
    for start in range(0, n, BLOCK):
        part = rows[start : start + BLOCK]
        tails = torch.randn(len(part), k, generator=generator).mul_(0.25).exp_()
        whole[start : start + BLOCK] = torch.randn(len(part), k, generator=generator) * tails * part * columns
    return whole


def _gain(channels: int, median: float, generator: torch.Generator) -> Tensor:
    """bfloat16 [channels]."""
    gain = median * torch.exp(0.3 * torch.randn(channels, generator=generator))
    gain[torch.rand(channels, generator=generator) < 0.002] *= 8
    return gain.bfloat16()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", type=int, default=2, help="decoder layers, instead of all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make(SIZES[options.size], options.out, options.tokenizer, options.layers, options.seed)


if __name__ == "__main__":
    main()
