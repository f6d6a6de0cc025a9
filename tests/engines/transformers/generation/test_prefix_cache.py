"""Prompts that begin alike compute their beginning once, and answer as without that."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from tilepress import UsageError
from tilepress.engines.transformers import Conversation, PrefixCache, generate

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

SYSTEM = "You answer questions about lighthouses, tersely and in English."


@pytest.fixture(scope="module", params=["float", "compressed"])
def tiny(request: pytest.FixtureRequest, tiny_qwen3: Path, tiny_w8a8s: Path) -> Loaded:
    return tilepress.load(tiny_qwen3 if request.param == "float" else tiny_w8a8s)


@pytest.mark.parametrize("draft_tokens", [0, 4])
def test_prompts_with_one_system_message(tiny: Loaded, draft_tokens: int) -> None:
    cache = PrefixCache()
    for i, prompt in enumerate(("How tall?", "How old, abcabcabc?", "How tall?", "Ho")):
        alone = generate(*tiny, prompt, system=SYSTEM, max_new_tokens=24)
        answer = generate(
            *tiny, prompt, system=SYSTEM, max_new_tokens=24, cache=cache, prompt_lookup_num_tokens=draft_tokens
        )
        assert answer.tokens == alone.tokens
        assert alone.cached_tokens == 0
        assert (answer.cached_tokens >= len(SYSTEM)) == (i > 0)
        assert answer.cached_tokens < answer.prompt_tokens


def test_prompts_without_a_common_beginning(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny[1], "chat_template", None)
    cache = PrefixCache()
    for prompt in ("abc", "xyz", "x"):
        answer = generate(*tiny, prompt, max_new_tokens=8, cache=cache)
        assert answer.cached_tokens == 0
        assert answer.tokens == generate(*tiny, prompt, max_new_tokens=8).tokens


def test_conversations_share_a_cache(tiny: Loaded) -> None:
    cache = PrefixCache()
    first = Conversation(*tiny, system=SYSTEM, cache=cache)
    first.say("How tall?", max_new_tokens=8)
    second = Conversation(*tiny, system=SYSTEM, cache=cache)
    expected = generate(*tiny, "How old?", system=SYSTEM, max_new_tokens=8)
    answer = second.say("How old?", max_new_tokens=8)
    assert answer.tokens == expected.tokens
    assert answer.cached_tokens >= len(SYSTEM)


def test_an_interrupted_prompt_leaves_an_empty_cache_and_a_refused_one_leaves_it(tiny: Loaded) -> None:
    cache = PrefixCache()

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    generate(*tiny, "Hello", max_new_tokens=4, cache=cache)
    with pytest.raises(UsageError, match="context"):
        generate(*tiny, "x" * 600, cache=cache)
    assert generate(*tiny, "Hello", max_new_tokens=4, cache=cache).cached_tokens > 0
    with pytest.raises(KeyboardInterrupt):
        generate(*tiny, "Hello", max_new_tokens=64, cache=cache, on_text=interrupt)
    answer = generate(*tiny, "Hello", max_new_tokens=4, cache=cache)
    assert answer.cached_tokens == 0
    assert answer.tokens == generate(*tiny, "Hello", max_new_tokens=4).tokens


def test_a_cache_of_another_model_is_refused(tiny: Loaded, tiny_qwen3: Path) -> None:
    cache = PrefixCache()
    generate(*tiny, "Hello", max_new_tokens=2, cache=cache)
    with pytest.raises(UsageError, match="another model"):
        generate(*tilepress.load(tiny_qwen3), "Hello", max_new_tokens=2, cache=cache)
    cache.clear()
    generate(*tilepress.load(tiny_qwen3), "Hello", max_new_tokens=2, cache=cache)
