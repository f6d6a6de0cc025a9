"""Answers in several threads of one model: each is the one it would be alone, and their steps are computed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tilepress
from quantized_models import make_w8a8s
from tilepress.engines.transformers.generate import complete
from tilepress.engines.transformers.generation.decode_step import DecodeStep, Part
from tilepress.engines.transformers.generation.kv_cache import GrowingCache, PrefixCache
from tilepress.engines.transformers.generation.shared_step import _shared, stream
from tilepress.errors import BitstreamError, UsageError

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
PROMPTS = [
    [7 * i % 250 for i in range(start, start + length)] for start, length in ((1, 9), (40, 3), (5, 60), (90, 20))
]


@pytest.fixture(scope="module")
def tiny(tiny_w8a8s: Path) -> Loaded:
    model, tokenizer = tilepress.load(tiny_w8a8s)
    model.generation_config.eos_token_id = None
    return model, tokenizer


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parts each native call had."""
    sizes: list[int] = []
    together = DecodeStep.together

    def counted(step: DecodeStep, parts: Any, threads: int | None = None) -> list[torch.Tensor]:
        sizes.append(len(parts))
        return together(step, parts, threads)

    monkeypatch.setattr(DecodeStep, "together", counted)
    return sizes


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """What the calls return, or the exceptions that they raise."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_every_answer_is_the_one_it_would_be_alone(tiny: Loaded, batches: list[int]) -> None:
    lengths = [30, 12, 25, 40]
    alone = [complete(*tiny, prompt, max_new_tokens=n).tokens for prompt, n in zip(PROMPTS, lengths, strict=True)]
    assert set(batches) == {1}
    calls = [lambda p=p, n=n: complete(*tiny, p, max_new_tokens=n) for p, n in zip(PROMPTS, lengths, strict=True)]
    answers = in_threads(calls)
    assert [answer.tokens for answer in answers] == alone
    assert max(batches) > 1
    assert not _shared  # nothing is held when all have ended


def test_drafts_and_prefixes_beside_others(tiny: Loaded) -> None:
    repeated = [3, 9, 27, 81] * 6
    alone = complete(*tiny, repeated, max_new_tokens=30).tokens
    cache = PrefixCache()
    calls: list[Callable[[], Any]] = [
        lambda: complete(*tiny, repeated, max_new_tokens=30, prompt_lookup_num_tokens=5),
        lambda: [complete(*tiny, repeated[: 4 * n], max_new_tokens=6, cache=cache) for n in (2, 4, 6)][-1],
        lambda: complete(*tiny, repeated, max_new_tokens=30),
    ]
    drafted, prefixed, plain = in_threads(calls)
    assert drafted.tokens == plain.tokens == alone
    assert prefixed.tokens == alone[:6]


def test_torch_has_its_threads_again(tiny: Loaded) -> None:
    before = torch.get_num_threads()
    in_threads([lambda p=p: complete(*tiny, p, max_new_tokens=5) for p in PROMPTS])
    assert torch.get_num_threads() == before


def test_threads_that_begin_meanwhile_have_torchs_number(tiny: Loaded) -> None:
    before, seen = torch.get_num_threads(), []

    def look(_: str) -> None:
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()

    complete(*tiny, PROMPTS[0], max_new_tokens=3, on_text=look)
    look("")
    assert set(seen) == {before}


def test_prompts_that_torch_reads_at_the_same_time(tmp_path: Path, tiny_qwen3: Path) -> None:
    directory = make_w8a8s(tiny_qwen3, tmp_path / "w8a8s", float_linears=["mlp.down_proj"])
    model, tokenizer = tilepress.load(directory)
    model.generation_config.eos_token_id = None
    alone = [complete(model, tokenizer, prompt, max_new_tokens=4).tokens for prompt in PROMPTS]
    calls = [lambda p=p: complete(model, tokenizer, p, max_new_tokens=4) for p in PROMPTS]
    for _ in range(5):
        assert [answer.tokens for answer in in_threads(calls)] == alone


def test_who_fails_or_is_interrupted_does_not_stop_the_others(tiny: Loaded) -> None:
    expected = complete(*tiny, PROMPTS[0], max_new_tokens=20).tokens

    def interrupted(text: str) -> None:
        raise RuntimeError("the listener has gone")

    calls: list[Callable[[], Any]] = [
        lambda: complete(*tiny, PROMPTS[0], max_new_tokens=20),
        lambda: complete(*tiny, PROMPTS[1], max_new_tokens=20, on_text=interrupted),
        lambda: complete(*tiny, PROMPTS[0], max_new_tokens=20),
    ]
    first, failed, last = in_threads(calls)
    assert first.tokens == last.tokens == expected
    assert isinstance(failed, UsageError)
    assert "the listener has gone" in str(failed)


def test_damage_reaches_all_that_it_concerns(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any) -> None:
        raise BitstreamError("tile (0, 0) is damaged")

    monkeypatch.setattr(DecodeStep, "together", damaged)
    failed = in_threads([lambda p=p: complete(*tiny, p, max_new_tokens=5) for p in PROMPTS])
    assert all(isinstance(error, BitstreamError) for error in failed)


def test_an_interrupt_is_for_its_own_thread(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tiny
    together, tokens = DecodeStep.together, torch.tensor([[5]])
    both_wait = threading.Event()

    def interrupted_when_together(step: DecodeStep, parts: list[Part], threads: int | None = None) -> Any:
        if not both_wait.is_set():
            both_wait.set()
            raise KeyboardInterrupt
        return together(step, parts, threads)

    expected = DecodeStep(model)(tokens, GrowingCache())
    monkeypatch.setattr(DecodeStep, "together", interrupted_when_together)

    def one() -> Any:
        with stream(model) as own:
            try:
                return own.step(tokens, GrowingCache())
            except KeyboardInterrupt:
                return None

    results = in_threads([one, one, one])
    assert sum(result is None for result in results) == 1
    assert all(torch.equal(result, expected) for result in results if result is not None)


def test_a_token_that_is_none_is_refused_to_its_owner(tiny: Loaded) -> None:
    model, _ = tiny

    def step(token: int) -> Any:
        with stream(model) as own, torch.inference_mode():
            return own.step(torch.tensor([[token]]), GrowingCache())

    good, refused = in_threads([lambda: step(5), lambda: step(100_000)])
    assert good.shape == (1, model.config.vocab_size)
    assert "token 100000 is none of the model's" in str(refused)


def test_a_cache_of_another_model_is_refused_to_its_owner(tiny: Loaded) -> None:
    model, _ = tiny
    wrong = GrowingCache()
    wrong.update(torch.zeros(1, 3, 2, 8), torch.zeros(1, 3, 2, 8), 0)

    def step(cache: GrowingCache) -> Any:
        with stream(model) as own, torch.inference_mode():
            return own.step(torch.tensor([[5]]), cache)

    good, refused = in_threads([lambda: step(GrowingCache()), lambda: step(wrong)])
    assert good.shape == (1, model.config.vocab_size)
    assert isinstance(refused, UsageError)
