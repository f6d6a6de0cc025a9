"""A model of Qwen3-8B's width with few layers and random weights, float and W8A8S, to measure speed without a hub.

    python -m benchmarks.models.wide_qwen3 FOLDER TOKENIZER_DIR [--layers 8] [--embeddings]

FOLDER gets `wide-qwen3` (float16, 3.5 GB), `wide-qwen3-w8a8s` and `wide-qwen3-w8a8sc`; TOKENIZER_DIR is a directory
with a tokenizer of 49,152 tokens, such as SmolLM2's. The head is quantized, and is the embedding too with --embeddings,
which else is float16 as in the float model. The integers are those that quantization to some 3.5 bits leaves:
rounded Gaussians with 0.5 % of the weights from one eight times as wide, with a step a row. The float weights are the
same model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks.models.float_directory import float_directory
from torch import Tensor

from tilepress.checkpoint import FloatCheckpoint, QuantizedLinear, W8A8SWriter, round_input_scale
from tilepress.compress import compress_directory

DEVIATION = 2.6  # an entropy of 3.5 bits
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float16",
}
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make(folder: Path, tokenizer: Path, layers: int, *, embeddings: bool) -> None:
    """Whatever of the three directories is missing."""
    source, quantized, compressed = (folder / f"wide-qwen3{suffix}" for suffix in ("", "-w8a8s", "-w8a8sc"))
    if not source.exists():
        _make_float(source, tokenizer, layers)
    if not quantized.exists():
        _make_w8a8s(source, quantized, layers, embeddings=embeddings)
    if not compressed.exists():
        compress_directory(quantized, compressed)


def _linear(seed: int, n: int, k: int, size: float) -> tuple[Tensor, Tensor]:
    """Integers int8 [n, k] and steps float32 [n], the same in every call. size: deviation of the weights."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, k, generator=generator)
    values[torch.rand(n, k, generator=generator) < 0.005] *= 8
    integers = torch.round(values * DEVIATION).clamp(-127, 127).to(torch.int8)
    return integers, torch.exp(0.2 * torch.randn(n, generator=generator)) * (size / DEVIATION)


def _layer(layer: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Prefix, integers and steps of each linear of a layer, whose output varies about as much as its input."""
    hidden, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    key = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    shapes = ((hidden, hidden), (key, hidden), (key, hidden), (hidden, hidden), (wide, hidden), (wide, hidden))
    for number, (name, (n, k)) in enumerate(zip(NAMES, (*shapes, (hidden, wide)), strict=True)):
        block = "self_attn" if number < 4 else "mlp"
        yield f"model.layers.{layer}.{block}.{name}", *_linear(100 * layer + number, n, k, k**-0.5)


def _table() -> tuple[Tensor, Tensor]:
    """Integers and steps of embedding and head."""
    return _linear(10_000, CONFIG["vocab_size"], CONFIG["hidden_size"], 0.02)


def _floats(integers: Tensor, steps: Tensor) -> Tensor:
    return (integers * steps[:, None]).half()


def _make_float(out: Path, tokenizer: Path, layers: int) -> None:
    hidden = CONFIG["hidden_size"]
    with float_directory(out, CONFIG | {"num_hidden_layers": layers}, tokenizer, shards=layers + 1) as save:
        save({"model.embed_tokens.weight": _floats(*_table()), "model.norm.weight": torch.ones(hidden).half()})
        for layer in range(layers):
            tensors = {f"{prefix}.weight": _floats(integers, steps) for prefix, integers, steps in _layer(layer)}
            for norm, size in (
                ("input_layernorm", hidden),
                ("post_attention_layernorm", hidden),
                ("self_attn.q_norm", CONFIG["head_dim"]),
                ("self_attn.k_norm", CONFIG["head_dim"]),
            ):
                tensors[f"model.layers.{layer}.{norm}.weight"] = torch.ones(size).half()
            save(tensors)


def _make_w8a8s(source: Path, out: Path, layers: int, *, embeddings: bool) -> None:
    checkpoint = FloatCheckpoint(source)
    scale = round_input_scale(0.04, "float16", "input_scale")

    def quantized(integers: Tensor, steps: Tensor) -> QuantizedLinear:
        return QuantizedLinear(integers, scale, 0, steps * scale, torch.zeros(len(steps), dtype=torch.int32))

    with W8A8SWriter(out, checkpoint, dtype="float16") as writer:
        for name in checkpoint.names():
            if "norm" in name or not (embeddings or "_proj." in name):
                writer.add_float(name, checkpoint.tensor(name))
        for layer in range(layers):
            for prefix, integers, steps in _layer(layer):
                writer.add_linear(prefix, quantized(integers, steps))
        writer.add_linear("lm_head", quantized(*_table()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--embeddings", action="store_true")
    options = parser.parse_args()
    make(options.folder, options.tokenizer, options.layers, embeddings=options.embeddings)
