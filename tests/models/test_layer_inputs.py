"""The description of who feeds whom, beside what transformers' models do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tilepress.checkpoint import FloatCheckpoint, architecture_of
from tilepress.models.architecture import GROUPS
from tilepress.models.layer_inputs import FEEDS, HEAD_NORMS, LAYER_NORMS, LINEARS, Feed, Norm
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

MAKERS = {
    "qwen3": make_tiny_qwen3,
    "qwen2": make_tiny_qwen2,
    "llama": make_tiny_llama,
    "mistral": make_tiny_mistral,
}
HEADS, KV_HEADS = 4, 2


@pytest.fixture(params=MAKERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return MAKERS[request.param](tmp_path / "model", heads=HEADS, kv_heads=KV_HEADS)


def inputs_of(model: PreTrainedModel, names: tuple[str, ...]) -> dict[str, Tensor]:
    """What the linears of the first layer read, [tokens, k], for a fixed sequence."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, inputs: seen.__setitem__(name, inputs[0][0])

    layer = model.model.layers[0]
    handles = [layer.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.inference_mode():
        model(torch.arange(12)[None])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.name)
def test_doubling_one_channel_of_the_source_doubles_its_columns_alone(feed: Feed, path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    before = inputs_of(model, feed.consumers)
    source = model.model.layers[0].get_submodule(feed.source.name)
    for parameter in source.parameters():  # gain, or weight and bias
        parameter.data[5] *= 2.0
    after = inputs_of(model, feed.consumers)

    first = feed.consumers[0]
    columns = torch.zeros(before[first].shape[1], dtype=torch.bool)
    if not isinstance(feed.source, Norm) and feed.source.by_kv_head:
        columns.view(KV_HEADS, HEADS // KV_HEADS, -1)[0, :, 5] = True
    else:
        columns[5] = True
    for consumer in feed.consumers:
        assert torch.equal(before[consumer], before[first]), "all of them read the same"
        torch.testing.assert_close(after[consumer], before[consumer] * (1.0 + columns), rtol=1e-6, atol=1e-9)


def test_it_names_each_linear_norm_and_bias_of_a_layer(path: Path) -> None:
    architecture = architecture_of(FloatCheckpoint(path).config)
    layer = AutoModelForCausalLM.from_pretrained(path).model.layers[0]

    norms = LAYER_NORMS + (HEAD_NORMS if architecture.qk_norm else ())
    expected = {norm.gain for norm in norms} | {f"{linear}.weight" for linear in LINEARS}
    expected |= {f"{linear}.bias" for linear in architecture.biased}
    assert {name for name, _ in layer.named_parameters()} == expected


def test_what_is_whole_on_each_rank_is_read_by_linears_split_by_rows() -> None:
    assert [group.axis for group in GROUPS] == ["rows", "columns", "rows", "columns"]
