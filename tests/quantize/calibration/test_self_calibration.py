"""Text that the float model writes itself: the prompts, its answers, and which of them are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilepress.checkpoint import FloatCheckpoint
from tilepress.errors import QuantizationError
from tilepress.quantize.calibration.documents import written_records
from tilepress.quantize.calibration.self_calibration import Author, Prompts, before_loop
from tiny_models import byte_level_tokenizer, make_tiny_llama, make_tiny_qwen3

END = 257
CPU = torch.device("cpu")


def author(source: Path, seed: int = 0, longest: int = 32) -> Author:
    return Author(FloatCheckpoint(source), seed, CPU, longest=longest, before_reading=lambda: None)


def test_dialogues_are_asked_for_an_answer_and_other_texts_are_gone_on_from() -> None:
    tokenizer = byte_level_tokenizer()
    prompts = Prompts(tokenizer).turn(seed=0, number=0)
    texts = [tokenizer.decode(prompt.tokens[prompt.unwritten :]) for prompt in prompts]
    asked = [text for text in texts if text.endswith("<|im_end|>\n<|im_start|>assistant\n")]
    openings = [prompt for prompt in prompts if prompt.unwritten]

    records = [record for file in written_records().values() for record in file]
    assert len(asked) == sum("messages" in record for record in records)
    assert len(openings) == sum("text" in record for record in records)
    assert all(text.count("<|im_start|>assistant") == 1 for text in asked), "the first turn alone"
    assert sum("<tools>" in text for text in asked) == sum("tools" in record for record in records)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert all(prompt.tokens[0] == start and 32 < len(prompt) <= 1 + 64 for prompt in openings)


def test_a_base_model_goes_on_from_the_questions_too() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None
    texts = [tokenizer.decode(prompt.tokens) for prompt in Prompts(tokenizer).turn(seed=0, number=0)]

    question = "The zip on my winter coat keeps splitting open below the slider. Do I have to replace the whole thing?"
    assert f"{question}\n\n" in texts
    assert not any("<|im_start|>" in text for text in texts)


def test_prompts_are_the_same_for_a_seed_and_others_in_the_next_turn() -> None:
    prompts = Prompts(byte_level_tokenizer())

    assert prompts.turn(0, 0) == prompts.turn(0, 0)
    assert prompts.turn(0, 0) != prompts.turn(1, 0)
    assert prompts.turn(0, 0) != prompts.turn(0, 1)
    assert sorted(p.tokens[:33] for p in prompts.turn(0, 0)) == sorted(p.tokens[:33] for p in prompts.turn(0, 1))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ([*range(100)], 100),
        ([*range(20), *[7] * 64], 20 + 64),  # the first 7 and 63 like it: no loop yet
        ([*range(20), *[7] * 65], 20 + 1),
        ([*range(20), *[1, 2, 3] * 40], 20 + 3),
        ([*range(20), *range(100, 164), *range(100, 164)], 20 + 64),
        ([*range(20), *range(100, 165), *range(100, 165)], 20 + 130),  # longer than a period may be
        ([], 0),
    ],
    ids=["no loop", "short", "one token", "three tokens", "the longest period", "a longer period", "nothing"],
)
def test_an_answer_is_cut_where_it_begins_to_repeat_itself(answer: list[int], kept: int) -> None:
    assert before_loop(answer) == answer[:kept]


def test_the_same_seed_gives_the_same_text_and_each_batch_another(tiny_qwen3: Path) -> None:
    first, again, other = (author(tiny_qwen3, seed).documents(0) for seed in (0, 0, 1))

    assert first == again != other
    assert author(tiny_qwen3).documents(1) != first, "it does not depend on the batches before"


def test_an_answer_follows_its_prompt_and_ends_with_the_models_end_token(tiny_qwen3: Path) -> None:
    documents = author(tiny_qwen3).documents(0)
    prompts = [prompt.tokens[prompt.unwritten :] for prompt in Prompts(byte_level_tokenizer()).turn(0, 0)]

    for document in documents:
        prompt = next(tokens for tokens in prompts if document[: len(tokens)] == tokens)
        answer = document[len(prompt) :]
        assert 0 < len(answer) <= 32
        assert END not in answer[:-1]
        assert len(answer) == 32 or answer[-1] == END
    assert max(map(max, documents)) < 259, "rows of the head without a token are not drawn"


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_llama])
def test_attention_by_groups_writes_what_transformers_own_does(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = author(make(tmp_path / "model")).documents(0)
    monkeypatch.setattr("tilepress.quantize.calibration.self_calibration.GROUPED", "sdpa")
    assert author(tmp_path / "model").documents(0) == grouped


def test_the_random_numbers_of_the_program_are_left_alone(tiny_qwen3: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    author(tiny_qwen3).documents(0)
    assert torch.equal(torch.rand(3), expected)


def test_the_models_own_settings_of_sampling_are_followed(float_copy: Path) -> None:
    sampled = author(float_copy).documents(0)
    settings = {"do_sample": True, "temperature": 1e-4, "eos_token_id": END}
    (float_copy / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    likeliest = [author(float_copy, longest=16).documents(0) for _ in range(2)]

    assert likeliest[0] == likeliest[1] != sampled


def test_a_tied_model_with_a_bos_token_writes_as_well(tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "tied", tied=True)
    (source / "chat_template.jinja").unlink()
    assert len(author(source).documents(0)) > 8


def test_a_model_that_stops_at_once_is_refused(float_copy: Path) -> None:
    every = {"eos_token_id": list(range(320))}
    (float_copy / "generation_config.json").write_text(json.dumps(every), encoding="utf-8")

    with pytest.raises(QuantizationError, match=r"copy: only 0 of \d+ answers .* are empty .* --calib"):
        author(float_copy).documents(0)


def test_a_model_that_repeats_itself_is_refused(tmp_path: Path) -> None:
    """Its layers add nothing, so that the likeliest token is always the one before."""
    source = make_tiny_llama(tmp_path / "echo", tied=True)
    weights = load_file(source / "model.safetensors")
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weight.zero_()
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    settings = {"do_sample": True, "top_k": 1, "eos_token_id": END}
    (source / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")

    with pytest.raises(QuantizationError, match=r"only 0 of \d+ answers .* repeat themselves"):
        author(source, longest=80).documents(0)


def test_a_context_that_no_prompt_fits_is_refused(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "short", max_position_embeddings=16)
    with pytest.raises(QuantizationError, match="no prompt of the calibration set fits the model's context of 16"):
        author(source)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    small = make_tiny_qwen3(tmp_path / "small", vocab_size=64, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    with pytest.raises(QuantizationError, match="the model has only 64 embeddings"):
        author(small)
