"""Mistral with and without a sliding window: answers are those of transformers' own loop and cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from quantized_models import make_w8a8s
from tilepress.compress import compress_directory
from tilepress.engines.transformers import PrefixCache, generate
from tiny_models import make_tiny_mistral

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

REPEATING = "abcabcabcabc"
SYSTEM = "You answer questions about lighthouses."


@pytest.fixture(scope="module", params=[16, None])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("mistral")
    source = make_tiny_mistral(folder / "float", sliding_window=request.param)
    compress_directory(make_w8a8s(source, folder / "w8a8s"), folder / "w8a8sc", tp=1)
    return tilepress.load(folder / "w8a8sc", kv="float32")


def answer_of_transformers(tiny: Loaded, text: str, new_tokens: int) -> tuple[int, ...]:
    """The greedy answer behind a text, in transformers' own loop, whose cache drops what leaves the window."""
    model, tokenizer = tiny
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    mask = torch.ones_like(ids)
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=258)
    return tuple(whole[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("draft_tokens", [0, 1, 4])
def test_answers_are_those_of_transformers(tiny: Loaded, draft_tokens: int) -> None:
    expected = answer_of_transformers(tiny, f"<|im_start|>user\n{REPEATING}<|im_end|>\n<|im_start|>assistant\n", 48)
    answer = generate(*tiny, REPEATING, max_new_tokens=48, prompt_lookup_num_tokens=draft_tokens)
    assert answer.tokens == expected
    assert (answer.drafted > 0) == (draft_tokens > 0)


@pytest.mark.parametrize("draft_tokens", [0, 4])
def test_prompts_with_one_system_message_compute_it_once(tiny: Loaded, draft_tokens: int) -> None:
    cache = PrefixCache()
    for i, prompt in enumerate(("How tall?", "How old, abcabcabc?", "How tall?")):
        alone = generate(*tiny, prompt, system=SYSTEM, max_new_tokens=24)
        answer = generate(
            *tiny, prompt, system=SYSTEM, max_new_tokens=24, cache=cache, prompt_lookup_num_tokens=draft_tokens
        )
        assert answer.tokens == alone.tokens
        assert (answer.cached_tokens >= len(SYSTEM)) == (i > 0)


def test_the_window_hides_what_is_before_it(tmp_path: Path) -> None:
    """Of one layer: the last token sees the 16 last ones, and no other."""
    model, _ = tilepress.load(make_tiny_mistral(tmp_path / "float", layers=1, sliding_window=16))
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        expected = model(ids).logits[0, -1]
        for place, hidden in ((23, True), (24, False)):
            changed = ids.clone()
            changed[0, place] = 200
            assert torch.equal(model(changed).logits[0, -1], expected) == hidden
