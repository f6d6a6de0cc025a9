"""The float model with its folds computes what it did: all layers and the head, through transformers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tilepress.checkpoint import FloatCheckpoint
from tilepress.checkpoint.tensors.activation_mode import STATIC
from tilepress.models.layer_inputs import FEEDS, FINAL_NORM, LAYER_NORMS
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.rounding.head import fold_head, head_statistics, logit_sensitivity
from tilepress.quantize.statistics.input_statistics import StatisticsCollector
from tilepress.quantize.transforms.folding import FoldedLayer, fold, mix_scales
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

# Four query heads, and as many kv heads as stand behind it.
ATTENTION = {"own kv heads": 4, "grouped": 2, "one kv head": 1}
MODELS = {
    "qwen3": (make_tiny_qwen3, {}),
    "qwen3 with attention_bias": (make_tiny_qwen3, {"attention_bias": True}),
    "qwen2": (make_tiny_qwen2, {}),
    "llama": (make_tiny_llama, {}),
    "llama with biases": (make_tiny_llama, {"attention_bias": True, "mlp_bias": True}),
}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

# Weights are float64, but norms and rotations are computed in float32 by transformers itself, which leaves 1e-7. Logits
# are about 1.
TOLERANCE = 1e-6

Change = Callable[[FoldedLayer], None]


def make(name: str, path: Path, kv_heads: int = 2) -> FloatCheckpoint:
    maker, options = MODELS[name]
    return FloatCheckpoint(maker(path, heads=4, kv_heads=kv_heads, **options))


def logits_before_and_after(
    source: FloatCheckpoint, dtype: torch.dtype, change: Change = lambda folded: None
) -> tuple[Tensor, Tensor, PreTrainedModel]:
    """float64 logits [3, 24, vocabulary] of the model and of the model with all folds, and that model.

    change: done to each folded layer.
    """
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 256, (3, 24), generator=generator)
    model.model.embed_tokens.weight.data[tokens[:, 0], 5] *= 50.0  # a massive activation
    heads = {"heads": source.shape.heads, "kv_heads": source.shape.kv_heads}
    states: list[Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].float()))
    with torch.no_grad(), ExitStack() as stack:
        collectors = [stack.enter_context(StatisticsCollector(layer, 8, generator)) for layer in model.model.layers]
        before = model(tokens).logits
    for layer, collector in zip(model.model.layers, collectors, strict=True):
        statistics = collector.result()
        scales = mix_scales(statistics, 0.01, "here", **heads, activations=STATIC)
        assert all(float(scale.log().abs().max()) > 0.1 for scale in scales.values()), "nothing would be tested"
        folded = fold(layer.state_dict(), statistics, scales, dtype, **heads)
        change(folded)
        layer.load_state_dict(folded.tensors)
    decoder = LayerwiseDecoder(source, torch.device("cpu"))
    seen = head_statistics(decoder, torch.split(states[0], 1), states[0].shape[1], 8, generator)
    head = fold_head(decoder, seen, logit_sensitivity(decoder, states), 0.01, dtype, shared=False, activations=STATIC)
    model.model.norm.weight.data = head.gain.double()
    model.lm_head.weight.data *= head.scales
    with torch.no_grad():
        return before, model(tokens).logits, model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_model_computes_what_it_did(name: str, attention: str, dtype: str, tmp_path: Path) -> None:
    source = make(name, tmp_path / "model", ATTENTION[attention])
    before, after, model = logits_before_and_after(source, DTYPES[dtype])

    assert float(before.std()) > 0.3
    torch.testing.assert_close(after, before, rtol=0.0, atol=TOLERANCE)
    norms = [f"model.layers.{index}.{norm.gain}" for index in range(2) for norm in LAYER_NORMS]
    for gain in (*norms, FINAL_NORM.gain):
        stored = model.get_parameter(gain)
        assert torch.equal(stored, stored.to(DTYPES[dtype]).double()), "must not be rounded when it is stored"


def rounds_gains_afterwards(folded: FoldedLayer) -> None:
    for norm in LAYER_NORMS:
        folded.tensors[norm.gain] = folded.tensors[norm.gain].bfloat16()


def forgets_a_bias(linear: str) -> Change:
    def change(folded: FoldedLayer) -> None:
        folded.tensors[f"{linear}.bias"] *= folded.row_scales[linear]

    return change


def is_a_percent_off_in(linear: str) -> Change:
    def change(folded: FoldedLayer) -> None:
        folded.tensors[f"{linear}.weight"][:, 3] *= 1.01

    return change


def swaps_two_kv_heads(folded: FoldedLayer) -> None:
    """Rows of v_proj divided by each other's scales."""
    rows = folded.row_scales["self_attn.v_proj"]
    folded.tensors["self_attn.v_proj.weight"] *= (rows / rows.view(2, -1).flip(0).flatten())[:, None]


WRONG: dict[str, tuple[str, Change]] = {
    "gains rounded afterwards": ("qwen3", rounds_gains_afterwards),
    "bias of v": ("qwen2", forgets_a_bias("self_attn.v_proj")),
    "bias of up": ("llama with biases", forgets_a_bias("mlp.up_proj")),
    "kv heads": ("llama", swaps_two_kv_heads),
} | {f"a column of {linear}": ("qwen3", is_a_percent_off_in(linear)) for feed in FEEDS for linear in feed.consumers}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_fold_would_be_seen(wrong: str, tmp_path: Path) -> None:
    name, change = WRONG[wrong]
    before, after, _ = logits_before_and_after(make(name, tmp_path / "model"), torch.float16, change)

    assert float((after - before).abs().max()) > 1000 * TOLERANCE
