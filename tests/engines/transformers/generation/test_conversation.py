"""Conversations: every turn gives what computing it from scratch gives, and computes only what is new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from tilepress import UsageError
from tilepress.engines.transformers import Conversation
from tilepress.engines.transformers.generate import complete, render

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

# Drops the answers of earlier turns, as templates of thinking models drop their thoughts.
FORGETFUL = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
    "{%- if message['role'] != 'assistant' -%}{{ message['content'] }}{%- endif -%}<|im_end|>{%- endfor -%}"
    "<|im_start|>assistant\n"
)


@pytest.fixture(scope="module", params=["float", "compressed"])
def tiny(request: pytest.FixtureRequest, tiny_qwen3: Path, tiny_w8a8s: Path) -> Loaded:
    return tilepress.load(tiny_qwen3 if request.param == "float" else tiny_w8a8s)


def fed_tokens(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of tokens of every forward pass."""
    counts: list[int] = []
    embedding = model.get_input_embeddings()
    forward = embedding.forward

    def counting(tokens: torch.Tensor) -> torch.Tensor:
        counts.append(tokens.shape[1])
        return forward(tokens)

    monkeypatch.setattr(embedding, "forward", counting)
    return counts


def test_turns_equal_recomputation_from_scratch(tiny: Loaded) -> None:
    model, tokenizer = tiny
    conversation = Conversation(model, tokenizer, system="You are terse.")
    for question in ("Hello", "And then?", "Why?"):
        history = [*conversation.messages, {"role": "user", "content": question}]
        answer = conversation.say(question, max_new_tokens=10)
        scratch = complete(model, tokenizer, render(history, tokenizer), max_new_tokens=10)
        assert answer.tokens == scratch.tokens
        assert answer.text == scratch.text
        assert conversation.messages == [*history, {"role": "assistant", "content": answer.text}]


def test_only_new_tokens_are_fed(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    conversation = Conversation(model, tokenizer)
    first = conversation.say("Hello", max_new_tokens=6, min_new_tokens=6, suppress_tokens=[256, 257, 258])
    counts = fed_tokens(model, monkeypatch)
    second = conversation.say("Go on", max_new_tokens=4, min_new_tokens=4)
    assert second.cached_tokens >= first.prompt_tokens
    assert counts == [second.prompt_tokens - second.cached_tokens, 1, 1, 1]


def test_a_template_that_rewrites_earlier_turns_costs_time_and_not_correctness(
    tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    monkeypatch.setattr(tokenizer, "chat_template", FORGETFUL)
    conversation = Conversation(model, tokenizer)
    first = conversation.say("Hello", max_new_tokens=8)
    history = [*conversation.messages, {"role": "user", "content": "Again"}]
    second = conversation.say("Again", max_new_tokens=8)
    assert first.prompt_tokens - 1 <= second.cached_tokens <= first.prompt_tokens
    assert second.tokens == complete(model, tokenizer, render(history, tokenizer), max_new_tokens=8).tokens


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token(
    tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    monkeypatch.setattr(tokenizer, "chat_template", "always the same")
    conversation = Conversation(model, tokenizer)
    first = conversation.say("Hello", max_new_tokens=5)
    again = conversation.say("Hello", max_new_tokens=5)
    assert again.cached_tokens == again.prompt_tokens - 1
    assert again.tokens == first.tokens


def test_an_interrupted_turn_leaves_the_conversation_as_it_was(tiny: Loaded) -> None:
    model, tokenizer = tiny
    conversation = Conversation(model, tokenizer)
    conversation.say("Hello", max_new_tokens=5)
    before = list(conversation.messages)

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.say("Go on", max_new_tokens=64, on_text=interrupt)
    assert conversation.messages == before
    history = [*before, {"role": "user", "content": "Go on"}]
    expected = complete(model, tokenizer, render(history, tokenizer), max_new_tokens=5)
    assert conversation.say("Go on", max_new_tokens=5).tokens == expected.tokens


def test_a_conversation_that_fills_the_context_says_so_and_stays_usable(tiny: Loaded) -> None:
    conversation = Conversation(*tiny)
    with pytest.raises(UsageError, match="the model's context is 512; shorten it"):
        conversation.say("x" * 600)
    assert conversation.messages == []
    assert conversation.say("Hello", max_new_tokens=2).new_tokens == 2


def test_a_model_without_a_chat_template_cannot_converse(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(UsageError, match="no chat template"):
        Conversation(model, tokenizer)
