"""Prompt lookup: drafts from earlier text, checked several at a time, change the speed and no token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from tilepress import UsageError
from tilepress.engines.transformers import Conversation, generate

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

REPEATING = "abcabcabcabc"


@pytest.fixture(scope="module")
def tiny(tiny_w8a8s: Path) -> Loaded:
    return tilepress.load(tiny_w8a8s)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3},
        {"min_new_tokens": 20, "suppress_tokens": [10]},
        {"do_sample": True, "temperature": 0.3, "top_k": 20},
    ],
    ids=str,
)
@pytest.mark.parametrize("draft_tokens", [1, 4, 10])
def test_the_answer_is_that_without_drafts(tiny: Loaded, options: dict[str, Any], draft_tokens: int) -> None:
    """Sampled ones too: every token is drawn from the same numbers."""
    torch.manual_seed(7)
    plain = generate(*tiny, REPEATING, max_new_tokens=64, **options)
    torch.manual_seed(7)
    answer = generate(*tiny, REPEATING, max_new_tokens=64, prompt_lookup_num_tokens=draft_tokens, **options)
    assert answer.tokens == plain.tokens
    assert answer.drafted > 0
    assert 0 <= answer.accepted <= answer.drafted
    assert (plain.drafted, plain.accepted) == (0, 0)


def test_accepted_drafts_save_passes(tiny: Loaded) -> None:
    """A model of random weights repeats itself before long; each accepted token is a pass less."""
    answer = generate(*tiny, REPEATING, max_new_tokens=200, min_new_tokens=200, prompt_lookup_num_tokens=4)
    assert answer.accepted > 50
    assert answer.as_dict()["accepted"] == answer.accepted
    assert answer.as_dict()["drafted"] == answer.drafted


@pytest.mark.parametrize("kind", ["float", "bfloat16", "hooks"])
def test_every_model_takes_drafts(tiny_qwen3: Path, tiny_w8a8s: Path, kind: str) -> None:
    """Those without the short cut for one token too, by their own forward pass."""
    path = tiny_w8a8s if kind == "hooks" else tiny_qwen3
    model, tokenizer = tilepress.load(path, dtype="bfloat16" if kind == "bfloat16" else None)
    if kind == "hooks":
        model.model.layers[0].register_forward_hook(lambda *_: None)
    plain = generate(model, tokenizer, REPEATING, max_new_tokens=24)
    answer = generate(model, tokenizer, REPEATING, max_new_tokens=24, prompt_lookup_num_tokens=4)
    assert answer.tokens == plain.tokens
    assert answer.drafted > 0


def test_a_conversation_keeps_no_rejected_draft(tiny: Loaded) -> None:
    plain, drafting = Conversation(*tiny), Conversation(*tiny)
    for question in (REPEATING, "xyxyxy", REPEATING):
        expected = plain.say(question, max_new_tokens=20)
        answer = drafting.say(question, max_new_tokens=20, prompt_lookup_num_tokens=4)
        assert answer.tokens == expected.tokens
        assert answer.cached_tokens == expected.cached_tokens


def test_drafts_end_with_the_answer_and_with_the_context(tiny: Loaded) -> None:
    model, tokenizer = tiny
    plain = generate(model, tokenizer, REPEATING, max_new_tokens=64)
    end = plain.tokens[-2]  # an end in the middle of what would be drafted
    options: dict[str, Any] = {"eos_token_id": end, "max_new_tokens": 64}
    stopped = generate(model, tokenizer, REPEATING, **options)
    assert generate(model, tokenizer, REPEATING, prompt_lookup_num_tokens=10, **options).tokens == stopped.tokens
    full = generate(model, tokenizer, "ab" * 240, max_new_tokens=500, min_new_tokens=3, prompt_lookup_num_tokens=10)
    assert full.prompt_tokens + full.new_tokens <= 512


def test_drafts_that_make_no_sense_are_refused(tiny: Loaded) -> None:
    with pytest.raises(UsageError, match="has to be an integer of at least 0"):
        generate(*tiny, "Hello", prompt_lookup_num_tokens=-1)
    with pytest.raises(UsageError, match="leave out beams"):
        generate(*tiny, "Hello", prompt_lookup_num_tokens=4, num_beams=2)
