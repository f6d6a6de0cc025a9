"""Calibration documents, from Python's own docstrings or a file of the user's, cut into token sequences."""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tilepress.errors import QuantizationError
from tilepress.text import is_prose, start_token, well_formed

FEWEST_TOKENS = 32

ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}

# Packages without prose of interest, tests, and the texts that evaluation holds out (pydoc_data).
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "turtledemo",
    "encodings",
    "__pycache__",
}


def default_documents(seed: int) -> Iterator[str]:
    """Docstrings of the standard library, prose paragraphs only, file by file in an order shuffled by `seed`.

    Read lazily, about a million characters in all; the same for one Python version and seed. QuantizationError
    where the library's sources are not installed.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = list(_sources(root))
    random.Random(seed).shuffle(paths)
    found = False
    for path in paths:
        for docstring in _docstrings(path):
            if prose := _prose(docstring):
                found = True
                yield prose
    if not found:
        raise QuantizationError(
            f"{root}: no Python sources to take calibration text from; pass a text file with --calib"
        )


def _sources(directory: Path) -> Iterator[Path]:
    # Not rglob: it would walk all of site-packages before leaving it out, some seconds.
    for entry in sorted(directory.iterdir()):
        if entry.suffix == ".py":
            yield entry
        elif entry.is_dir() and entry.name not in LEFT_OUT:
            yield from _sources(entry)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def _prose(docstring: str) -> str:
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if is_prose(p) and ">>>" not in p and p.isascii())


def read_documents(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Calibration documents of a user's file, in the file's order.

    .txt: paragraphs between blank lines. .jsonl: one record a line. .json: a list of records, or one record.
    A record is a string, {"text"}, {"inputs_pretokenized"} (the vendor's tool), {"messages": [{"role", "content"}]} or
    {"conversations": [{"from", "value"}]} (ShareGPT); conversations are rendered by the tokenizer's chat template, or
    joined by blank lines where it has none. QuantizationError with the line or record number for anything else.
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
        documents = [well_formed(_document(record, where, tokenizer)) for where, record in records]
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise QuantizationError(f"{path}: holds no text to calibrate on")
    return documents


def _json_lines(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
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
    except RecursionError as error:
        raise QuantizationError(
            f"{path}: JSON is nested too deeply; a record is one level of text or messages"
        ) from error
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        yield f"{path}, record {number}", record


def _document(record: Any, where: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        for key in ("text", "inputs_pretokenized"):
            if isinstance(record.get(key), str):
                return str(record[key])
        for key, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
            if isinstance(record.get(key), list):
                return _render([_message(entry, role, content, where) for entry in record[key]], where, tokenizer)
    raise QuantizationError(
        f'{where}: neither a string nor an object with a text in "text" or "inputs_pretokenized", '
        'or a list in "messages" or "conversations"'
    )


def _message(entry: Any, role: str, content: str, where: str) -> dict[str, str]:
    said = entry.get(content) if isinstance(entry, dict) else None
    if not isinstance(said, str) or not isinstance(entry.get(role), str):
        raise QuantizationError(f'{where}: each message has to be an object with texts in "{role}" and "{content}"')
    return {"role": ROLES.get(entry[role], entry[role]), "content": well_formed(said)}


def _render(messages: list[dict[str, str]], where: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        return "\n\n".join(message["content"] for message in messages)
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # templates raise what they like: jinja's errors, TypeError, their own
        raise QuantizationError(f"{where}: the model's chat template refuses the conversation: {error}") from error


def token_sequences(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    samples: int,
    length: int,
    vocabulary: int,
    source: str = "the calibration text",
) -> Tensor:
    """Token ids int64 [samples, length]: the start token, then the documents end to end.

    Fewer sequences where the documents do not fill as many, one shorter sequence where they do not fill one.
    QuantizationError below 32 tokens, or for ids that the model (of `vocabulary` embeddings) does not have.
    """
    first = start_token(tokenizer)
    prefix = [] if first is None else [first]
    room = length - len(prefix)
    stream: list[int] = []
    for document in documents:
        # Newlines keep documents apart; a rendered conversation brings its own start token, where it is welcome too.
        stream.extend(tokenizer(document + "\n\n", add_special_tokens=False, verbose=False)["input_ids"])
        if len(stream) >= samples * room:
            break
    if len(stream) < FEWEST_TOKENS:
        raise QuantizationError(
            f"{source} is only {len(stream)} tokens; "
            f"at least {FEWEST_TOKENS} are needed, and some thousands to be of use"
        )
    if max(stream) >= vocabulary:
        raise QuantizationError(
            f"the tokenizer gives token {max(stream)}, the model has only {vocabulary} embeddings; "
            "tokenizer and model do not belong together"
        )
    room = min(room, len(stream))
    rows = [prefix + stream[i : i + room] for i in range(0, len(stream) - room + 1, room)]
    return torch.tensor(rows[:samples], dtype=torch.int64)
