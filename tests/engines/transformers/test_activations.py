"""Tokens that leave the static ranges, in the engine: clamped or with scales of their own, as the directory says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import tilepress
from quantized_models import make_w8a8s
from reference_model import logits_of, reference_model
from tilepress.compress import compress_directory

NARROW = 0.2  # ranges that most tokens leave


def loaded(path: Path, **options: object) -> PreTrainedModel:
    return tilepress.load(path, **options)[0]


@pytest.mark.parametrize("activations", ["overflow", "static", "per-token", "dynamic"])
def test_directories_are_run_as_they_are_meant(activations: str, tiny_qwen3: Path, tmp_path: Path) -> None:
    quantized = make_w8a8s(tiny_qwen3, tmp_path / "q", head=True, activations=activations, narrow=NARROW)
    compress_directory(quantized, tmp_path / "c", tp=4)
    for dtype in (torch.float32, torch.bfloat16):
        expected = logits_of(reference_model(tiny_qwen3, quantized, dtype))
        assert torch.equal(logits_of(loaded(quantized, dtype=dtype)), expected)
        assert torch.equal(logits_of(loaded(tmp_path / "c", dtype=dtype)), expected)


def test_scales_of_their_own_keep_what_the_clamp_loses(tiny_qwen3: Path, tmp_path: Path) -> None:
    exact = logits_of(loaded(tiny_qwen3))
    errors = []
    for activations in ("overflow", "per-token", "static"):
        quantized = make_w8a8s(tiny_qwen3, tmp_path / activations, activations=activations, narrow=NARROW)
        errors.append(float((logits_of(loaded(quantized)) - exact).std() / exact.std()))
    assert errors[0] < 0.1
    assert errors[0] < 0.5 * errors[1] < 0.5 * errors[2]


def test_only_linears_that_need_them_have_sums(tiny_qwen3: Path, tmp_path: Path) -> None:
    names = {
        activations: [
            name.removesuffix(".weight_sums").removeprefix("model.layers.1.")
            for name, _ in loaded(
                make_w8a8s(tiny_qwen3, tmp_path / activations, activations=activations)
            ).named_buffers()
            if name.startswith("model.layers.1.") and name.endswith("weight_sums")
        ]
        for activations in ("overflow", "static", "per-token")
    }
    assert sorted(names["overflow"]) == [
        "mlp.down_proj",
        "mlp.gate_up_proj",
        "self_attn.o_proj",
        "self_attn.query_key_value",
    ]
    assert (names["static"], names["per-token"]) == ([], ["mlp.down_proj"])
