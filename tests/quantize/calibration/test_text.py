"""Where calibration text comes from, and how it becomes token sequences."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from tilepress.errors import QuantizationError
from tilepress.quantize.calibration.text import default_documents, read_documents, token_sequences
from tilepress.text import start_token
from tiny_models import byte_level_tokenizer

CONVERSATION = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
IM_START = 256
RENDERED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"


def first_documents(seed: int, count: int = 40) -> list[str]:
    return list(itertools.islice(default_documents(seed), count))


def test_the_default_text_is_prose_and_the_same_every_time() -> None:
    documents = first_documents(seed=0)

    assert documents == first_documents(seed=0)
    assert documents != first_documents(seed=1)
    assert all(len(document.split()) >= 12 and ">>>" not in document for document in documents)


def test_the_default_text_has_nothing_of_what_evaluation_holds_out() -> None:
    held_out = " ".join(" ".join(topics.values()).split())

    assert not any(document in held_out for document in first_documents(seed=0, count=200))


@pytest.mark.parametrize(
    ("record", "document"),
    [
        ("plain", "plain"),
        ({"text": "some text"}, "some text"),
        ({"inputs_pretokenized": "the vendor's way", "id": 3}, "the vendor's way"),
        ({"text": "a cut emoji \ud83d here"}, "a cut emoji \N{REPLACEMENT CHARACTER} here"),
        ({"messages": CONVERSATION}, RENDERED),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, RENDERED),
    ],
)
def test_each_kind_of_record_is_read_from_both_json_forms(record: object, document: str, tmp_path: Path) -> None:
    lines = tmp_path / "calibration.jsonl"
    lines.write_text(json.dumps(record) + "\n\n" + json.dumps("second") + "\n", encoding="utf-8")
    whole = tmp_path / "calibration.json"
    whole.write_text(json.dumps([record, "second"]), encoding="utf-8")

    assert read_documents(lines, byte_level_tokenizer()) == [document, "second"]
    assert read_documents(whole, byte_level_tokenizer()) == [document, "second"]


def test_a_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "calibration.txt"
    file.write_text("One\nparagraph.\n\n \nAnother.\n", encoding="utf-8")

    assert read_documents(file, byte_level_tokenizer()) == ["One\nparagraph.", "Another."]


def test_without_a_chat_template_the_messages_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "calibration.jsonl"
    file.write_text(json.dumps({"messages": CONVERSATION}), encoding="utf-8")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None

    assert read_documents(file, tokenizer) == ["Hi\n\nHello"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", '"fine"\n{"text": \n', "line 2.*not JSON"),
        ("c.jsonl", '"fine"\n\n{"prompt": "x"}\n', 'line 3.*"inputs_pretokenized"'),
        ("c.jsonl", '{"messages": [{"role": "user"}]}', 'line 1.*"role" and "content"'),
        ("c.jsonl", '{"conversations": ["hello"]}', 'line 1.*"from" and "value"'),
        ("c.json", '[\n"fine",\n{]', "line 3.*not JSON"),
        ("c.json", '["fine", 7]', "record 2"),
        ("c.json", "[" * 200000, "too deeply"),
        ("c.jsonl", "", "no text"),
        ("c.txt", " \n\n ", "no text"),
        ("c.csv", "a,b", ".txt, .json or .jsonl"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")

    with pytest.raises(QuantizationError, match=message) as refusal:
        read_documents(file, byte_level_tokenizer())
    assert str(file) in str(refusal.value)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "c.txt"
    binary.write_bytes(b"\xff\xfe\x00\x80")

    for file in (binary, tmp_path / "missing.txt"):
        with pytest.raises(QuantizationError, match="cannot be read"):
            read_documents(file, byte_level_tokenizer())


def test_what_the_chat_template_refuses_is_reported_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(json.dumps({"messages": CONVERSATION}), encoding="utf-8")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(QuantizationError, match=r"line 1.*roles must alternate"):
        read_documents(file, tokenizer)


def test_each_sequence_begins_with_the_chat_templates_first_token() -> None:
    tokens = token_sequences(byte_level_tokenizer(), ["abcdefgh" * 40], samples=3, length=64, vocabulary=320)

    assert tokens.shape == (3, 64)
    assert tokens[:, 0].tolist() == [IM_START] * 3
    assert byte_level_tokenizer().decode(tokens[1, 1:4]) == ("abcdefgh" * 40)[63:66]


def test_the_start_token_is_bos_without_a_chat_template_and_none_without_both() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None
    assert start_token(tokenizer) is None

    tokenizer.bos_token = "<|endoftext|>"
    assert start_token(tokenizer) == tokenizer.bos_token_id


def test_short_text_gives_fewer_or_shorter_sequences() -> None:
    tokenizer = byte_level_tokenizer()

    assert token_sequences(tokenizer, ["x" * 200], samples=9, length=64, vocabulary=320).shape == (3, 64)
    assert token_sequences(tokenizer, ["x" * 40], samples=9, length=64, vocabulary=320).shape == (1, 43)


def test_text_beyond_what_is_needed_is_not_read() -> None:
    def documents() -> object:
        yield "x" * 100
        raise AssertionError("read too far")

    assert token_sequences(byte_level_tokenizer(), documents(), samples=2, length=32, vocabulary=320).shape == (2, 32)


def test_hardly_any_text_is_refused() -> None:
    with pytest.raises(QuantizationError, match="only 7 tokens"):
        token_sequences(byte_level_tokenizer(), ["short"], samples=2, length=64, vocabulary=320)


def test_a_foreign_tokenizer_is_refused() -> None:
    with pytest.raises(QuantizationError, match="only 100 embeddings"):
        token_sequences(byte_level_tokenizer(), ["y" * 100], samples=2, length=64, vocabulary=100)
