"""Phi-3, read as the Mistral that computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.models.as_other import as_other
from safetensors.torch import load_file, save_file

import tilepress
from reference_model import logits_of
from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.errors import CheckpointError
from tilepress.models.clothes import without_fused_linears
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import make_tiny_llama

QKV, Q = "model.layers.1.self_attn.qkv_proj.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def phi3(tmp_path: Path) -> Path:
    as_other("phi3", make_tiny_llama(tmp_path / "llama"), tmp_path / "phi3")
    return tmp_path / "phi3"


def test_fused_linears_are_read_as_their_members(phi3: Path) -> None:
    fused, llama = FloatCheckpoint(phi3), FloatCheckpoint(phi3.parent / "llama")
    assert fused.names() == llama.names()
    for name in llama.names():
        assert torch.equal(fused.tensor(name), llama.tensor(name))
        assert torch.equal(fused.read(name, 1, 3), llama.read(name, 1, 3))
        assert fused.stored(name).shape == llama.stored(name).shape


def test_what_is_made_of_it_is_a_mistral(phi3: Path, calibration: Path, tmp_path: Path) -> None:
    recipe = Recipe(bits=5.0, samples=4, sequence_length=64, distill_steps=0)
    quantize_checkpoint(FloatCheckpoint(phi3), tmp_path / "w8a8s", recipe, calibration=calibration)

    assert open_checkpoint(tmp_path / "w8a8s").config["model_type"] == "mistral"
    p, q = (logits_of(tilepress.load(path)[0]).log_softmax(-1) for path in (phi3, tmp_path / "w8a8s"))
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 0.1


def test_fields_that_a_phi3_leaves_out_are_phi3_s(phi3: Path) -> None:
    config, fused = without_fused_linears({"model_type": "phi3", "hidden_size": 64}, "config.json")
    assert fused
    assert (config["sliding_window"], config["num_key_value_heads"], config["rope_theta"]) == (None, 32, 10000.0)
    assert without_fused_linears({"model_type": "llama"}, "config.json") == ({"model_type": "llama"}, False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("partial_rotary_factor", 0.75, "partial_rotary_factor 0.75"),
        (
            "rope_scaling",
            {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
            "rotary embedding 'longrope'",
        ),
        ("rope_scaling", {"rope_type": "su"}, "rotary embedding 'su'"),
    ],
)
def test_a_rotary_embedding_that_no_mistral_has_is_refused(phi3: Path, field: str, value: object, message: str) -> None:
    file = phi3 / "config.json"
    config = json.loads(file.read_text())
    config.pop("rope_parameters", None)
    file.write_text(json.dumps(config | {field: value}))
    with pytest.raises(CheckpointError, match=message):
        FloatCheckpoint(phi3)


def test_tensors_that_do_not_fit_are_named(phi3: Path) -> None:
    (file,) = phi3.glob("*.safetensors")
    tensors = load_file(file)
    whole = tensors[QKV]
    save_file(tensors | {QKV: whole[:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.qkv_proj\.weight is .* calls for \d+ rows"):
        FloatCheckpoint(phi3)
    save_file(tensors | {Q: whole[:2].clone()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"q_proj\.weight is there too"):
        FloatCheckpoint(phi3)
    del tensors[QKV]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor model\.layers\.1\.self_attn\.q_proj\.weight is missing"):
        FloatCheckpoint(phi3)
