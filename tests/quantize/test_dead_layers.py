"""Layers that are zero, as pruning, merging and expanding by identity leave them, are quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tilepress
from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import make_tiny_llama, make_tiny_qwen2

ZEROED = {
    "mlp.up_proj": ["mlp.up_proj.weight"],
    "mlp.gate_proj": ["mlp.gate_proj.weight"],
    "self_attn.v_proj": ["self_attn.v_proj.weight", "self_attn.v_proj.bias"],
    "a norm": ["post_attention_layernorm.weight"],
    "both outputs (expanded by identity)": ["self_attn.o_proj.weight", "mlp.down_proj.weight"],
    "all linears": [
        f"{name}.weight"
        for name in (
            *(f"self_attn.{letter}_proj" for letter in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        )
    ],
}


@pytest.mark.parametrize("activations", ["overflow", "static", "per-token", "dynamic"])
@pytest.mark.parametrize("zeroed", ZEROED)
@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_qwen2], ids=["llama", "qwen2"])
def test_a_dead_layer_is_quantized(make, zeroed: str, activations: str, calibration: Path, tmp_path: Path) -> None:
    file = make(tmp_path / "float", heads=4, kv_heads=2) / "model.safetensors"
    tensors = load_file(file)
    for name in ZEROED[zeroed]:
        if f"model.layers.1.{name}" in tensors:
            tensors[f"model.layers.1.{name}"].zero_()
    save_file(tensors, file, {"format": "pt"})
    recipe = Recipe(samples=4, sequence_length=64, distill_steps=3, activations=activations)
    report = quantize_checkpoint(FloatCheckpoint(tmp_path / "float"), tmp_path / "out", recipe, calibration=calibration)

    assert report.bits == pytest.approx(
        4.0, abs=0.6
    )  # the last groups of a model make up for others; here they are dead
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        answers = [tilepress.load(tmp_path / name)[0](ids).logits.log_softmax(-1) for name in ("float", "out")]
    divergence = (answers[0].exp() * (answers[0] - answers[1])).sum(-1).mean()
    assert float(divergence) < 0.2
    assert open_checkpoint(tmp_path / "out").shape.layers == 2


@pytest.mark.parametrize("dead", ["lm_head.weight", "model.norm.weight"])
def test_a_dead_head_is_quantized(dead: str, calibration: Path, tmp_path: Path) -> None:
    file = make_tiny_llama(tmp_path / "float", heads=4, kv_heads=2) / "model.safetensors"
    tensors = load_file(file)
    tensors[dead].zero_()
    save_file(tensors, file, {"format": "pt"})
    recipe = Recipe(samples=4, sequence_length=64, distill_steps=0, head=True)

    quantize_checkpoint(FloatCheckpoint(tmp_path / "float"), tmp_path / "out", recipe, calibration=calibration)

    with torch.inference_mode():
        assert not tilepress.load(tmp_path / "out")[0](torch.arange(5, 45)[None]).logits.any()
