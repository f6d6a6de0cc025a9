"""A model with outlier channels and massive first tokens, from float to the divergence of what was made of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from reference_model import reference_model
from tilepress.checkpoint import FloatCheckpoint
from tilepress.evaluate import divergence
from tilepress.quantize import Recipe, quantize_checkpoint
from tilepress.quantize.transforms.overflow_ranges import MASSIVE
from tiny_models import IM_START, byte_level_tokenizer, make_qwen3_with_outliers

# At least so many times what 4 bits lose is lost by 3 bits. Activations add the same to both, most where a static range
# holds the massive tokens. Of ten seeds the least ratios were 2.0, 1.13 and 1.5.
LEAST_RATIO = {"overflow": 1.5, "static": 1.05, "per-token": 1.5, "dynamic": 1.5}
OTHER_TEXT = (
    "Rounding is a decision about what may be lost. A channel that is large in every token asks for a coarse grid, and "
    "one token that is larger than all others asks for a coarser one. Who gives in to both keeps little of the rest."
)


def largest_by_token(model: PreTrainedModel) -> torch.Tensor:
    """max |x| of the first down_proj's input, [tokens], for a sequence that begins with the start token."""
    seen: list[torch.Tensor] = []
    handle = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
    with torch.inference_mode():
        model(torch.tensor([[IM_START, *OTHER_TEXT.encode()[:63]]]))
    handle.remove()
    return seen[0].abs().amax(dim=1)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("activations", ["overflow", "static", "per-token", "dynamic"])
def test_fewer_bits_lose_more_and_nothing_is_infinite(
    activations: str, seed: int, calibration: Path, tmp_path: Path
) -> None:
    source = FloatCheckpoint(make_qwen3_with_outliers(tmp_path / "float", seed))
    exact = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32).eval()
    largest = largest_by_token(exact)
    assert largest[0] > MASSIVE * largest.median()

    lost = {}
    for bits in (3.0, 4.0):
        out = tmp_path / f"{bits}"
        recipe = Recipe(bits=bits, samples=6, sequence_length=64, activations=activations)
        report = quantize_checkpoint(source, out, recipe, calibration=calibration)
        json.dumps(report.as_dict(), allow_nan=False)
        for name, tensor in load_file(out / "quant_model_weight_w8a8s.safetensors").items():
            assert tensor.isfinite().all(), name
        model = reference_model(source.path, out)
        lost[bits] = divergence(model, exact, byte_level_tokenizer(), OTHER_TEXT, window=64).kl
    assert 0.0 < LEAST_RATIO[activations] * lost[4.0] < lost[3.0] < math.inf
