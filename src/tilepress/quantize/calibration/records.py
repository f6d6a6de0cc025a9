"""Calibration documents of a user's file: plain texts, JSON records, and conversations."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tilepress.errors import QuantizationError, TilepressWarning
from tilepress.quantize.calibration.conversations import conversation_of
from tilepress.quantize.calibration.rendering import Renderer
from tilepress.text import well_formed


def read_documents(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Calibration documents of a user's file, in the file's order.

    .txt: paragraphs between blank lines. .jsonl: one record a line. .json: a list of records, or one record.
    A record is a string, {"text"}, {"inputs_pretokenized"} (the vendor's tool) or a conversation of
    `conversation_of`, which the tokenizer's chat template renders with its tools, calls, results and thoughts; without
    a template the messages are joined by blank lines. A TilepressWarning counts what did not reach the text.
    QuantizationError with the line or record number for anything else.
    """
    kind = path.suffix.lower()
    if kind not in (".txt", ".json", ".jsonl"):
        raise QuantizationError(f"{path}: calibration files are .txt, .json or .jsonl")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuantizationError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if kind == ".txt":
        documents = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", content)]
    else:
        records = _json_lines(path, content) if kind == ".jsonl" else _json_list(path, content)
        documents = documents_of(records, tokenizer, str(path))
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise QuantizationError(f"{path}: holds no text to calibrate on")
    return documents


def documents_of(records: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, source: str) -> list[str]:
    """The text of each record, given with where it stands. source: named in the warning."""
    renderer = Renderer(tokenizer)
    documents = [well_formed(_document(record, where, renderer)) for where, record in records]
    if (note := renderer.note()) is not None:
        warnings.warn(f"{source}: {note}", TilepressWarning, stacklevel=3)
    return documents


def _json_lines(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.removeprefix("\ufeff")  # of files that were joined
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise QuantizationError(
                    f"{path}, line {number}: not JSON: {error}; each line has to be one record"
                ) from error


def _json_list(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(content)
    except json.JSONDecodeError as error:
        raise QuantizationError(
            f"{path}, line {error.lineno}: not JSON: {error.msg}; a file of one record a line is named .jsonl"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise QuantizationError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise QuantizationError(
            f"{path}: JSON is nested too deeply; a record is one level of text or messages"
        ) from error
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        yield f"{path}, record {number}", record


def _document(record: Any, where: str, renderer: Renderer) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        conversation = conversation_of(record, where, renderer.left_out)
        if conversation is not None:  # a text beside it is the same, rendered for another model
            return renderer.render(conversation, where)
        for key in ("text", "inputs_pretokenized"):
            if isinstance(record.get(key), str):
                return str(record[key])
    raise QuantizationError(
        f'{where}: neither a string nor an object with a text in "text" or "inputs_pretokenized", '
        'or a list in "messages" or "conversations"'
    )
