"""Answering a prompt: text, counts, times, streaming and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from tilepress import UsageError
from tilepress.engines.transformers import PrefixCache, generate

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def tiny(tiny_w8a8s: Path) -> Loaded:
    return tilepress.load(tiny_w8a8s)


def test_the_answer_is_what_transformers_generates(tiny: Loaded) -> None:
    model, tokenizer = tiny
    answer = generate(model, tokenizer, "Hello", max_new_tokens=12)
    ids = tokenizer("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, pad_token_id=258)
    assert answer.tokens == tuple(expected[0, ids.shape[1] :].tolist())
    assert answer.text == tokenizer.decode(answer.tokens, skip_special_tokens=True)
    assert answer.prompt_tokens == ids.shape[1]
    assert answer.cached_tokens == 0


def test_counts_and_times_are_reported(tiny: Loaded) -> None:
    answer = generate(*tiny, "Hello", max_new_tokens=8, min_new_tokens=8)
    assert answer.new_tokens == 8
    assert answer.first_token_seconds > 0
    assert answer.tokens_per_second is not None
    assert answer.tokens_per_second > 0
    assert json.loads(json.dumps(answer.as_dict()))["new_tokens"] == 8
    assert generate(*tiny, "Hello", max_new_tokens=1).tokens_per_second is None


def test_streamed_pieces_are_the_text(tiny: Loaded) -> None:
    pieces: list[str] = []
    answer = generate(*tiny, "Hello", max_new_tokens=40, on_text=pieces.append)
    assert "".join(pieces) == answer.text
    assert all(pieces)


def test_the_system_message_and_template_variables_reach_the_template(tiny: Loaded) -> None:
    model, tokenizer = tiny
    short = generate(model, tokenizer, "Hello", max_new_tokens=1).prompt_tokens
    long = generate(model, tokenizer, "Hello", system="Be brief.", max_new_tokens=1).prompt_tokens
    assert long == short + len(tokenizer("<|im_start|>system\nBe brief.<|im_end|>\n")["input_ids"])
    template, tokenizer.chat_template = tokenizer.chat_template, "{{ mark }}{{ messages[0]['content'] }}"
    try:
        assert generate(model, tokenizer, "ab", template_variables={"mark": "xyz"}, max_new_tokens=1).prompt_tokens == 5
    finally:
        tokenizer.chat_template = template


def test_a_model_without_a_template_continues_the_prompt(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert generate(model, tokenizer, "Hello", max_new_tokens=1).prompt_tokens == 5
    with pytest.raises(UsageError, match="the prompt is empty"):
        generate(model, tokenizer, "")


def test_sampling_options_are_those_of_transformers(tiny: Loaded) -> None:
    def sample(seed: int) -> tuple[int, ...]:
        torch.manual_seed(seed)
        return generate(*tiny, "Hello", max_new_tokens=16, do_sample=True, temperature=5.0, top_k=50).tokens

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_generation_stops_at_the_end_of_the_context(tiny: Loaded) -> None:
    model, tokenizer = tiny
    around = len(tokenizer("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    assert generate(model, tokenizer, "x" * (509 - around), max_new_tokens=100, min_new_tokens=3).new_tokens == 3
    with pytest.raises(UsageError, match="the prompt has 512 tokens, the model's context is 512; shorten it"):
        generate(model, tokenizer, "x" * (512 - around))


def test_requests_that_make_no_sense_are_refused(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    with pytest.raises(UsageError, match="it has to be an integer of at least 1"):
        generate(model, tokenizer, "Hello", max_new_tokens=0)
    monkeypatch.setattr(model.config, "vocab_size", 100)
    with pytest.raises(UsageError, match="they do not match"):
        generate(model, tokenizer, "Hello")
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(UsageError, match="chat template refuses the conversation: no system role"):
        generate(model, tokenizer, "Hello", system="Be brief.")


@pytest.mark.parametrize(
    "options",
    [
        {"stop_strings": ["e", "\x00"]},
        {"num_beams": 3},
        {"num_beams": 2, "stop_strings": ["e"]},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"cache_implementation": "static"},
        {"return_dict_in_generate": True, "output_scores": True},
        {"use_cache": False},
    ],
    ids=lambda options: " ".join(options),
)
@pytest.mark.parametrize("stored", [False, True], ids=["given", "stored"])
def test_settings_of_generation_are_those_of_transformers(
    options: dict[str, object], stored: bool, tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given as arguments, or in the model's generation_config.json; with a prefix cache and without."""
    model, tokenizer = tiny
    ids = tokenizer("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    settings = GenerationConfig(**{**model.generation_config.to_dict(), **(options if stored else {})})
    monkeypatch.setattr(model, "generation_config", settings)
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        pad_token_id=258,
        tokenizer=tokenizer,
        **({} if stored else options),
    )
    tokens = expected if isinstance(expected, torch.Tensor) else expected.sequences
    for cache in (None, PrefixCache()):
        pieces: list[str] = []
        answer = generate(
            model,
            tokenizer,
            "Hello",
            max_new_tokens=12,
            cache=cache,
            on_text=pieces.append,
            **({} if stored else options),
        )
        assert answer.tokens == tuple(tokens[0, ids.shape[1] :].tolist())
        assert "".join(pieces) == answer.text


def test_settings_that_transformers_refuses_are_one_line(tiny: Loaded) -> None:
    for options, message in (
        ({"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences is 2; one answer is given at a time"),
        ({"temperature": "hot", "do_sample": True}, "does not generate with these options"),
        ({"warp_factor": 9}, "does not generate with these options: .*warp_factor"),
        ({"num_beams": 0}, "does not generate with these options"),
        ({"generation_config": "x"}, "generation_config is 'x'; it has to be a GenerationConfig"),
        ({"streamer": object()}, "streamer cannot be given; on_text is called"),
        ({"past_key_values": object()}, "past_key_values cannot be given; a PrefixCache"),
        ({"prompt_lookup_num_tokens": "3"}, "prompt_lookup_num_tokens is '3'"),
        ({"max_new_tokens": "4"}, "the number of new tokens is '4'"),
    ):
        with pytest.raises(UsageError, match=message):
            generate(*tiny, "Hello", **{"max_new_tokens": 4, **options})


def test_what_transformers_takes_beside_settings_is_taken(tiny: Loaded) -> None:
    plain = generate(*tiny, "Hello", max_new_tokens=6)
    beams = generate(*tiny, "Hello", max_new_tokens=6, num_beams=2)
    assert generate(*tiny, "Hello", max_new_tokens=6, pad_token_id=0, stopping_criteria=None).tokens == plain.tokens
    assert (
        generate(*tiny, "Hello", max_new_tokens=6, generation_config=GenerationConfig(num_beams=2)).tokens
        == beams.tokens
    )
    assert generate(*tiny, "Hello", max_new_tokens=None, stop_strings=[plain.text[0]]).new_tokens >= 1
    assert generate(*tiny, "a cut emoji \ud83d", system="\ud83d", max_new_tokens=2).new_tokens >= 1
