"""Which scales of q and k change nothing, with head norms and without: docs/explanation/algorithm.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tiny_models import make_tiny_llama, make_tiny_qwen3

HEADS, KV_HEADS, WIDTH = 4, 2, 16
CONSTANT = torch.full((WIDTH,), 3.0, dtype=torch.float64)
# Channels j and j + WIDTH / 2 are rotated together.
EQUAL_IN_PAIRS = torch.linspace(0.5, 2.0, WIDTH // 2, dtype=torch.float64).repeat(2)
UNEQUAL_IN_PAIRS = torch.linspace(0.5, 2.0, WIDTH, dtype=torch.float64)

# Constant factors in front of a norm only change what its epsilon is beside: 1e-6 to a mean square of 0.4 and more.
TO_EPSILON = 1e-5
CHANGED = 0.1


OPTIONS = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": WIDTH, "attention_bias": True, "dtype": torch.float32}


def double(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()


@pytest.fixture
def model(tmp_path: Path) -> PreTrainedModel:
    return double(make_tiny_qwen3(tmp_path / "model", **OPTIONS))


def logits(model: PreTrainedModel) -> Tensor:
    tokens = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        result: Tensor = model(tokens).logits
    return result


def scale_rows(model: PreTrainedModel, name: str, scales: Tensor) -> None:
    """Multiply the output channels of each layer's q_proj or k_proj by `scales` [heads · head_dim]."""
    for layer in model.model.layers:
        linear = layer.get_submodule(f"self_attn.{name}")
        linear.weight.data *= scales[:, None]
        linear.bias.data *= scales


def scale_gain(model: PreTrainedModel, name: str, scales: Tensor) -> None:
    for layer in model.model.layers:
        layer.get_submodule(f"self_attn.{name}").weight.data *= scales


def change(model: PreTrainedModel, before: Tensor) -> float:
    return float((logits(model) - before).abs().max())


@pytest.mark.parametrize(("name", "heads"), [("q_proj", HEADS), ("k_proj", KV_HEADS)])
def test_one_factor_a_head_changes_nothing(model: PreTrainedModel, name: str, heads: int) -> None:
    before = logits(model)
    scale_rows(model, name, torch.linspace(1.0, 4.0, heads, dtype=torch.float64).repeat_interleave(WIDTH))
    assert change(model, before) < TO_EPSILON


@pytest.mark.parametrize("scales", [EQUAL_IN_PAIRS, UNEQUAL_IN_PAIRS], ids=["equal in pairs", "unequal"])
@pytest.mark.parametrize("undone_by", ["nothing", "the gain", "the other side"])
def test_other_factors_of_rows_change_the_function(model: PreTrainedModel, undone_by: str, scales: Tensor) -> None:
    before = logits(model)
    scale_rows(model, "q_proj", scales.repeat(HEADS))
    if undone_by == "the gain":
        scale_gain(model, "q_norm", 1.0 / scales)
    elif undone_by == "the other side":
        scale_rows(model, "k_proj", (1.0 / scales).repeat(KV_HEADS))
    assert change(model, before) > CHANGED


@pytest.mark.parametrize(
    ("scales", "exact"),
    [(CONSTANT, True), (EQUAL_IN_PAIRS, True), (UNEQUAL_IN_PAIRS, False)],
    ids=["constant", "equal in pairs", "unequal"],
)
def test_gains_take_scales_that_are_equal_in_the_pairs_of_the_rotation(
    model: PreTrainedModel, scales: Tensor, exact: bool
) -> None:
    before = logits(model)
    scale_gain(model, "q_norm", scales)
    assert change(model, before) > CHANGED
    scale_gain(model, "k_norm", 1.0 / scales)
    assert change(model, before) < 1e-6 if exact else change(model, before) > CHANGED


@pytest.mark.parametrize(
    ("scales", "exact"), [(EQUAL_IN_PAIRS, True), (UNEQUAL_IN_PAIRS, False)], ids=["equal in pairs", "unequal"]
)
def test_without_norms_rows_take_what_gains_take_with_them(scales: Tensor, exact: bool, tmp_path: Path) -> None:
    model = double(make_tiny_llama(tmp_path / "model", **OPTIONS))
    before = logits(model)
    scale_rows(model, "q_proj", scales.repeat(HEADS))
    scale_rows(model, "k_proj", (1.0 / scales).repeat(KV_HEADS))
    assert change(model, before) < 1e-6 if exact else change(model, before) > CHANGED
