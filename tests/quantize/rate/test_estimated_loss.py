"""The loss in the report beside the divergence that the quantized model really has from the float one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reference_model import reference_model
from tilepress.checkpoint import FloatCheckpoint
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import byte_level_tokenizer

IM_START = 256


@pytest.mark.parametrize("tables", [False, True], ids=["linears", "head and embedding too"])
@pytest.mark.parametrize("bits", [3.0, 5.0])
def test_the_estimate_is_about_the_divergence(
    tiny_qwen3: Path, calibration: Path, bits: float, tables: bool, tmp_path: Path
) -> None:
    recipe = Recipe(bits=bits, head=tables, embeddings=tables, samples=12, sequence_length=128)
    report = quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", recipe, calibration=calibration)

    ids = byte_level_tokenizer()(calibration.read_text(encoding="utf-8"), return_tensors="pt", verbose=False)
    windows = ids["input_ids"][0, :512].reshape(4, 128)
    windows[:, 0] = IM_START
    exact = AutoModelForCausalLM.from_pretrained(tiny_qwen3, dtype=torch.float32).eval()
    with torch.inference_mode():
        p = exact(windows).logits.log_softmax(dim=-1)
        q = reference_model(tiny_qwen3, tmp_path / "out")(windows).logits.log_softmax(dim=-1)
    divergence = float((p.exp() * (p - q)).sum(dim=-1).mean())

    assert 0.6 * divergence < report.loss < 1.3 * divergence
