"""Models whose weights or activations are far from the usual size, or mostly zero, go through in float16."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tilepress
from tilepress.checkpoint import FloatCheckpoint
from tilepress.errors import QuantizationError
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import make_tiny_llama

RECIPE = Recipe(samples=4, sequence_length=64, distill_steps=0)
SCALED = {
    "a small norm": (r"layers\.0\.input_layernorm", 1e-8),
    "small values": (r"layers\.1.*v_proj", 1e-3),
    "a small MLP": (r"layers\.1.*(up|gate)_proj", 1e-2),
    "a tiny gate": (r"layers\.1.*gate_proj", 1e-8),
    "a large MLP": (r"layers\.1.*up_proj", 1e4),
    "a small embedding": (r"embed_tokens", 1e-5),
    "a small final norm": (r"model\.norm", 1e-6),
}


def scaled(path: Path, pattern: str, factor: float, layers: int = 2) -> Path:
    file = make_tiny_llama(path, dtype=torch.float32, layers=layers) / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if re.search(pattern, name):
            tensor.mul_(factor)
    save_file(tensors, file, {"format": "pt"})
    return path


def divergence(one: Path, other: Path) -> float:
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        p, q = (tilepress.load(path)[0](ids).logits.log_softmax(-1) for path in (one, other))
        return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("case", SCALED)
def test_small_and_large_activations_are_scaled_into_the_stored_type(
    case: str, calibration: Path, tmp_path: Path
) -> None:
    source = scaled(tmp_path / "float", *SCALED[case])
    recipe = replace(RECIPE, head=case == "a small final norm")
    quantize_checkpoint(FloatCheckpoint(source), tmp_path / "out", recipe, calibration=calibration)
    assert divergence(source, tmp_path / "out") < 0.2


@pytest.mark.parametrize("bits", [None, 2.0, 3.0])
def test_a_model_of_many_zeros_meets_its_bits_or_takes_what_it_holds(
    bits: float | None, calibration: Path, tmp_path: Path
) -> None:
    source = scaled(tmp_path / "float", r"layers\.[23]\..*proj", 0.0, layers=4)
    recipe = replace(RECIPE, bits=bits)
    report = quantize_checkpoint(FloatCheckpoint(source), tmp_path / "out", recipe, calibration=calibration)
    assert report.bits < (bits or 4.0) + 0.4
    assert divergence(source, tmp_path / "out") < 0.5


def test_what_holds_nothing_is_said_to_hold_no_more(calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(scaled(tmp_path / "float", r"layers\..*proj", 0.0))
    with pytest.raises(QuantizationError, match=r"3 bits a weight cannot be met.* ask for fewer bits"):
        quantize_checkpoint(source, tmp_path / "out", replace(RECIPE, bits=3.0), calibration=calibration)
    report = quantize_checkpoint(source, tmp_path / "other", RECIPE, calibration=calibration)
    assert report.bits < 1.0
