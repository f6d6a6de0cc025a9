"""The default calibration text: what it is made of, and that evaluation's texts are not in it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from importlib.resources import files
from pydoc_data.topics import topics

import pytest

from tilepress.quantize.calibration.documents import (
    default_documents,
    docstrings,
    package_descriptions,
    written_documents,
    written_records,
)
from tiny_models import byte_level_tokenizer

LANGUAGES = {"en", "zh", "es", "de", "fr", "ja", "ru"}
PROGRAMMING = {"python", "javascript", "typescript", "cpp", "c", "java", "go", "rust", "sql", "bash"}
KINDS = {"encyclopedia", "questions", "reasoning", "math", "code", "dialogue", "thinking", "tools", "json", "document"}


def test_docstrings_are_prose_and_the_same_every_time() -> None:
    first, again, other = (list(itertools.islice(docstrings(seed), 40)) for seed in (0, 0, 1))

    assert first == again != other
    assert all(len(document.split()) >= 12 and ">>>" not in document for document in first)


def test_the_default_text_has_nothing_of_what_evaluation_holds_out() -> None:
    held_out = " ".join(" ".join(topics.values()).split())

    assert not any(document in held_out for document in default_documents(0, byte_level_tokenizer()))


def test_the_default_text_is_the_same_for_a_seed_and_mixed_from_its_beginning() -> None:
    tokenizer = byte_level_tokenizer()
    documents = default_documents(0, tokenizer)
    assert documents == default_documents(0, tokenizer)
    assert sorted(documents) != documents != default_documents(1, tokenizer)

    beginning = set(documents[: len(documents) // 4])
    for texts in written_documents(tokenizer).values():
        assert 0.1 < len(beginning & set(texts)) / len(texts) < 0.45
    assert beginning & set(itertools.islice(docstrings(0), 200))
    assert beginning & set(package_descriptions())


def test_the_written_set_has_these_kinds_and_languages() -> None:
    records = [record for file in written_records().values() for record in file]
    kinds, languages = Counter(r["kind"] for r in records), Counter(r["language"] for r in records)
    assert kinds.keys() >= KINDS
    assert languages.keys() >= LANGUAGES | PROGRAMMING

    size = Counter[str]()
    for record in records:
        size[record["language"]] += len(json.dumps(record, ensure_ascii=False).encode())
    assert size["zh"] > 20_000
    assert all(size[language] > 2_000 for language in LANGUAGES)


def test_the_written_set_is_of_moderate_size_and_repeats_nothing() -> None:
    folder = files("tilepress.quantize.calibration") / "texts"
    assert 100_000 < sum(len(file.read_bytes()) for file in folder.iterdir()) < 150_000

    records = [json.dumps(record) for file in written_records().values() for record in file]
    lines = Counter(line for record in records for line in record.split("\\n") if len(line) > 60)
    assert [line for line, count in lines.items() if count > 1] == []


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}"])
def test_every_record_is_a_text_without_a_chat_template_or_with_one_that_refuses(template: str | None) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template

    assert all(text.strip() for texts in written_documents(tokenizer).values() for text in texts)


def test_tool_calls_and_thoughts_of_the_written_set_reach_the_text() -> None:
    text = "".join(written_documents(byte_level_tokenizer())["dialogues"])

    assert text.count("<tool_call>") >= 6
    assert text.count("<think>") >= 6
