"""A context longer than the trained one, by YaRN; and none where it was not asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import tilepress
from tilepress import UsageError
from tilepress.engines.long_context import stretched
from tilepress.engines.transformers import generate
from tiny_models import make_tiny_llama, make_tiny_qwen3

PROMPT = "abcdefgh" * 94  # with the template 1.5 times the 512 tokens that the tiny model was trained for


@pytest.mark.parametrize("kind", ["float", "compressed"])
def test_a_long_prompt_is_answered_with_yarn_and_refused_without(tiny_qwen3: Path, tiny_w8a8s: Path, kind: str) -> None:
    path = tiny_qwen3 if kind == "float" else tiny_w8a8s
    with pytest.raises(UsageError, match="the model's context is 512; shorten it, or load the model with a longer"):
        generate(*tilepress.load(path), PROMPT)
    model, tokenizer = tilepress.load(path, max_model_len=1024)
    answer = generate(model, tokenizer, PROMPT, max_new_tokens=8, min_new_tokens=8)
    assert answer.prompt_tokens >= 1.5 * 512
    assert answer.new_tokens == 8
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=False
    )
    expected = model.generate(torch.tensor([ids]), max_new_tokens=8, min_new_tokens=8, pad_token_id=258)
    assert answer.tokens == tuple(expected[0, len(ids) :].tolist())
    with pytest.raises(UsageError, match="the model's context is 1024"):
        generate(model, tokenizer, "x" * 1024)


def test_both_kinds_of_directory_scale_positions_alike(tiny_qwen3: Path, tiny_w8a8s: Path) -> None:
    models = [tilepress.load(path, max_model_len=2048)[0] for path in (tiny_qwen3, tiny_w8a8s)]
    for model in models:
        assert model.config.rope_parameters == {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 512,
        }
        assert model.config.max_position_embeddings == 2048
    one, other = (model.model.rotary_emb for model in models)
    assert torch.equal(one.inv_freq, other.inv_freq)
    assert one.attention_scaling == other.attention_scaling == pytest.approx(1.1386, abs=1e-4)


def test_up_to_the_trained_length_nothing_changes(tiny_w8a8s: Path) -> None:
    plain = tilepress.load(tiny_w8a8s)
    for length in (1, 512):
        model, tokenizer = tilepress.load(tiny_w8a8s, max_model_len=length)
        assert model.config.to_dict() == plain[0].config.to_dict()
        assert generate(model, tokenizer, "Hello", max_new_tokens=8).tokens == (
            generate(*plain, "Hello", max_new_tokens=8).tokens
        )
    with pytest.raises(UsageError, match="--max-model-len 0: has to be at least 1"):
        tilepress.load(tiny_w8a8s, max_model_len=0)


@pytest.mark.parametrize(
    "rotary",
    [
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        {"rope_type": "dynamic", "factor": 2.0},
    ],
    ids=lambda rotary: rotary["rope_type"],
)
def test_what_is_scaled_in_another_way_is_refused(rotary: dict[str, Any], tiny_w8a8s: Path, tmp_path: Path) -> None:
    for path in (make_tiny_llama(tmp_path / "float"), Path(shutil.copytree(tiny_w8a8s, tmp_path / "w8a8s"))):
        set_rotary(path, rotary)
        with pytest.raises(
            UsageError, match=f"by {rotary['rope_type']} scaling, which YaRN cannot stretch; give at most"
        ):
            tilepress.load(path, max_model_len=1024)
        model, _ = tilepress.load(path, max_model_len=512)
        assert model.config.rope_parameters["rope_type"] == rotary["rope_type"]


def test_what_has_yarn_already_is_stretched_from_its_trained_length(tiny_w8a8s: Path, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 24.0}
    path = Path(shutil.copytree(tiny_w8a8s, tmp_path / "w8a8s"))
    set_rotary(path, yarn)
    model, _ = tilepress.load(path, max_model_len=1024)
    assert model.config.rope_parameters == {**yarn, "factor": 8.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("make", "trained", "length", "factor"),
    [(make_tiny_qwen3, 40960, 131072, 4.0), (make_tiny_qwen3, 512, 2048, 4.0), (make_tiny_llama, 40960, 131072, 3.2)],
)
def test_both_engines_stretch_alike(make: Any, trained: int, length: int, factor: float, tmp_path: Path) -> None:
    """Qwen3's 40960 are 32768 trained ones and 8192 for the answer; `run` used to take them all for trained."""
    path = make(tmp_path / "float", max_position_embeddings=trained)
    fields = json.loads((path / "config.json").read_text())
    served = stretched(fields, path / "config.json", length)
    assert served is not None
    assert served["rope_parameters"]["factor"] == factor
    model, _ = tilepress.load(path, max_model_len=length)
    assert model.config.rope_parameters == served["rope_parameters"]
    assert model.config.max_position_embeddings == served["max_position_embeddings"] == length


def set_rotary(path: Path, rotary: dict[str, Any]) -> None:
    config = json.loads((path / "config.json").read_text())
    config["rope_parameters"] = {**rotary, "rope_theta": 10000.0}
    (path / "config.json").write_text(json.dumps(config))
