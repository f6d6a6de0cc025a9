"""A Llama with norms of q and k, healed to predict what it did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.models.as_qwen3 import as_qwen3, first_gains

import tilepress
from tilepress.checkpoint import FloatCheckpoint
from tiny_models import make_tiny_llama

IDS = torch.arange(3, 40)[None]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_healing_brings_it_nearer_to_the_llama(tied: bool, tmp_path: Path) -> None:
    llama = make_tiny_llama(tmp_path / "llama", tied=tied)
    found = as_qwen3(llama, tmp_path / "qwen3", steps=8, length=32)

    assert found.plain > found.begun > found.fitted > found.healed
    made = FloatCheckpoint(tmp_path / "qwen3")
    assert made.architecture.name == "Qwen3ForCausalLM"
    assert made.shape == FloatCheckpoint(llama).shape
    model, _ = tilepress.load(tmp_path / "qwen3")
    norms = [weight for name, weight in model.named_parameters() if name.endswith(("q_norm.weight", "k_norm.weight"))]
    assert len(norms) == 4
    assert all(len(weight.unique()) > 1 for weight in norms)
    assert model(IDS).logits.isfinite().all()


def test_lengths_that_directions_tell_are_kept() -> None:
    """Rows on the ellipsoid of a norm keep their lengths, whatever their directions."""
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(16, generator=generator) + 0.5
    rows = torch.randn(4000, 16, generator=generator)
    rows = gains * rows / rows.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(first_gains(rows), gains, rtol=0.05, atol=0.0)


def test_a_model_with_biases_is_refused(tmp_path: Path) -> None:
    llama = make_tiny_llama(tmp_path / "llama", attention_bias=True)
    with pytest.raises(SystemExit, match="a Llama without biases is needed"):
        as_qwen3(llama, tmp_path / "qwen3", steps=2)
    assert not (tmp_path / "qwen3").exists()


def test_a_directory_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is there already"):
        as_qwen3(make_tiny_llama(tmp_path / "llama"), tmp_path, steps=2)
