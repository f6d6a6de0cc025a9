"""Perplexity and divergence against straightforward computations on whole logits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from quantized_models import make_w8a8s
from tilepress import UsageError
from tilepress.evaluate import divergence, perplexity, windows
from tilepress.text import start_token
from tiny_models import byte_level_tokenizer, make_tiny_qwen3

TEXT = "The quick brown fox jumps over the lazy dog. " * 6
START = 256  # <|im_start|>, with which the chat template begins

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def tiny(tiny_qwen3: Path) -> Loaded:
    return tilepress.load(tiny_qwen3)


@pytest.fixture(scope="module")
def quantized(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return tilepress.load(make_w8a8s(tiny_qwen3, tmp_path_factory.mktemp("models") / "w8a8s"))[0]


def rows_of(tokenizer: PreTrainedTokenizerBase, text: str, size: int) -> list[list[int]]:
    tokens = tokenizer(text)["input_ids"]
    return [[START, *tokens[i : i + size - 1]] for i in range(0, len(tokens), size - 1)]


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, row: list[int]) -> Tensor:
    return torch.log_softmax(model(torch.tensor([row])).logits[0, :-1].double(), dim=-1)


def test_every_token_is_predicted_once_after_the_start_token(tiny: Loaded) -> None:
    model, tokenizer = tiny
    nats: list[float] = []
    for row in rows_of(tokenizer, TEXT, 50):
        logs = log_probabilities(model, row)
        nats += [-float(logs[i, token]) for i, token in enumerate(row[1:])]
    result = perplexity(model, tokenizer, TEXT, window=50)
    assert result.tokens == len(nats) == len(TEXT)
    assert result.windows == math.ceil(len(TEXT) / 49)
    assert result.nats == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.nats))
    assert json.loads(json.dumps(result.as_dict()))["window"] == 50


def test_divergence_is_the_mean_kl_of_the_reference_from_the_model(tiny: Loaded, quantized: PreTrainedModel) -> None:
    reference, tokenizer = tiny
    kl: list[float] = []
    same: list[bool] = []
    for row in rows_of(tokenizer, TEXT, 64):
        p, q = log_probabilities(reference, row), log_probabilities(quantized, row)
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
    result = divergence(quantized, reference, tokenizer, TEXT, window=64)
    assert result.kl == pytest.approx(sum(kl) / len(kl), rel=1e-4)
    assert result.kl > 0
    assert result.quantiles[0.5] == pytest.approx(float(torch.tensor(kl).quantile(0.5)), rel=1e-3)
    assert result.quantiles[1.0] == pytest.approx(max(kl), rel=1e-4)
    assert result.same_top == pytest.approx(sum(same) / len(same))
    assert result.perplexity == pytest.approx(perplexity(quantized, tokenizer, TEXT, window=64).perplexity)
    assert result.reference_perplexity == pytest.approx(perplexity(reference, tokenizer, TEXT, window=64).perplexity)
    assert json.loads(json.dumps(result.as_dict()))["tokens"] == len(TEXT)


def test_a_model_does_not_diverge_from_itself(tiny: Loaded) -> None:
    model, tokenizer = tiny
    result = divergence(model, model, tokenizer, TEXT)
    assert result.kl == pytest.approx(0, abs=1e-7)
    assert result.same_top == 1


def test_logits_in_small_chunks_give_the_same(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    whole = perplexity(model, tokenizer, TEXT)
    monkeypatch.setattr(windows, "CHUNK_LOGITS", 3 * 320)
    assert perplexity(model, tokenizer, TEXT).nats == pytest.approx(whole.nats, rel=1e-6)


def test_max_windows_takes_the_first_ones_and_progress_is_told(tiny: Loaded) -> None:
    model, tokenizer = tiny
    steps: list[tuple[int, int]] = []
    result = perplexity(
        model, tokenizer, TEXT, window=50, max_windows=2, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(1, 2), (2, 2)]
    assert (result.tokens, result.windows) == (98, 2)
    assert result.nats == perplexity(model, tokenizer, TEXT[:98], window=50).nats


def test_without_a_template_windows_begin_with_the_tokenizers_own_start_token(tiny: Loaded) -> None:
    model, _ = tiny
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None
    assert start_token(tokenizer) is None
    result = perplexity(model, tokenizer, TEXT, window=50)
    assert result.tokens == len(TEXT) - result.windows  # the first of each window has nothing before it
    tokenizer.bos_token = "<|endoftext|>"
    assert start_token(tokenizer) == 258


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "shorter than two tokens"),
        (TEXT, {"window": 1}, "from 2 to 512"),
        (TEXT, {"window": 513}, "from 2 to 512"),
        (TEXT, {"max_windows": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(text: str, options: dict[str, int], message: str, tiny: Loaded) -> None:
    with pytest.raises(UsageError, match=message):
        perplexity(*tiny, text, **options)


def test_infinite_logits_are_an_error_and_not_a_number(tmp_path: Path) -> None:
    model, tokenizer = tilepress.load(make_tiny_qwen3(tmp_path / "float"))
    model.lm_head.weight.data[3, 5] = float("inf")
    with pytest.raises(UsageError, match="logits are not finite"):
        perplexity(model, tokenizer, TEXT)


def test_models_that_do_not_belong_together_are_refused(
    tiny: Loaded, quantized: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    monkeypatch.setattr(quantized.config, "vocab_size", 100)
    with pytest.raises(UsageError, match="the model has 320 tokens and the reference 100"):
        divergence(model, quantized, tokenizer, TEXT)
    with pytest.raises(UsageError, match="they do not match"):
        perplexity(quantized, tokenizer, TEXT)
