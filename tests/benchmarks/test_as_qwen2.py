"""The same weights as another architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.models.as_qwen2 import as_qwen2
from safetensors.torch import load_file

import tilepress
from tilepress.checkpoint import FloatCheckpoint
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import make_tiny_llama

IDS = torch.arange(3, 40)[None]


def test_a_llama_as_qwen2_computes_the_same(tmp_path: Path) -> None:
    llama = make_tiny_llama(tmp_path / "llama")
    as_qwen2(llama, tmp_path / "qwen2")

    found, expected = (tilepress.load(tmp_path / name)[0] for name in ("qwen2", "llama"))

    assert type(found).__name__ == "Qwen2ForCausalLM"
    assert torch.equal(found(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_as_qwen2_gets_the_same_integers(tmp_path: Path, calibration: Path, tied: bool) -> None:
    as_qwen2(make_tiny_llama(tmp_path / "llama", tied=tied), tmp_path / "qwen2")
    recipe = Recipe(head=True, embeddings=True, samples=6, sequence_length=64, distill_steps=0)
    made = {}
    for name in ("llama", "qwen2"):
        out = tmp_path / f"{name}-w8a8s"
        quantize_checkpoint(FloatCheckpoint(tmp_path / name), out, recipe, calibration=calibration)
        made[name] = load_file(out / "quant_model_weight_w8a8s.safetensors")

    assert made["llama"].keys() == made["qwen2"].keys()
    assert all(torch.equal(made["llama"][name], tensor) for name, tensor in made["qwen2"].items())


def test_a_model_with_biases_is_refused(tmp_path: Path) -> None:
    llama = make_tiny_llama(tmp_path / "llama", attention_bias=True)
    with pytest.raises(SystemExit, match="a Llama without biases is needed"):
        as_qwen2(llama, tmp_path / "qwen2")
