"""The same weights as another architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.models.as_other import CONFIGS, as_other
from safetensors.torch import load_file

import tilepress
from tilepress.checkpoint import FloatCheckpoint
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import make_tiny_llama

IDS = torch.arange(3, 40)[None]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_llama_as_another_model_computes_the_same(kind: str, tmp_path: Path) -> None:
    llama = make_tiny_llama(tmp_path / "llama")
    as_other(kind, llama, tmp_path / "other")

    found, expected = (tilepress.load(tmp_path / name)[0] for name in ("other", "llama"))

    assert [type(found).__name__] == CONFIGS[kind]["architectures"]
    assert torch.equal(found(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize(("kind", "tied"), [("qwen2", False), ("mistral", True), ("phi3", False)])
def test_a_llama_as_another_model_gets_the_same_integers(
    kind: str, tied: bool, tmp_path: Path, calibration: Path
) -> None:
    as_other(kind, make_tiny_llama(tmp_path / "llama", tied=tied), tmp_path / "other")
    recipe = Recipe(head=True, embeddings=True, samples=6, sequence_length=64, distill_steps=0)
    made = {}
    for name in ("llama", "other"):
        out = tmp_path / f"{name}-w8a8s"
        quantize_checkpoint(FloatCheckpoint(tmp_path / name), out, recipe, calibration=calibration)
        made[name] = load_file(out / "quant_model_weight_w8a8s.safetensors")

    assert made["llama"].keys() == made["other"].keys()
    assert all(torch.equal(made["llama"][name], tensor) for name, tensor in made["other"].items())


def test_a_model_with_biases_is_refused(tmp_path: Path) -> None:
    llama = make_tiny_llama(tmp_path / "llama", attention_bias=True)
    with pytest.raises(SystemExit, match="a Llama without biases is needed"):
        as_other("qwen2", llama, tmp_path / "other")
