"""What a user's calibration file holds, as documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilepress.errors import QuantizationError
from tilepress.quantize.calibration.records import read_documents
from tiny_models import byte_level_tokenizer

CONVERSATION = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
RENDERED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"


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


def test_joined_files_keep_their_byte_order_marks(tmp_path: Path) -> None:
    file = tmp_path / "joined.jsonl"
    file.write_text('\ufeff{"text": "One."}\n\ufeff{"text": "Two."}\n', encoding="utf-8")
    assert read_documents(file, byte_level_tokenizer()) == ["One.", "Two."]


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
