"""The default calibration text: a set written for the purpose, docstrings, and the installed packages' descriptions."""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
import sysconfig
from collections.abc import Iterator, Sequence, Sized
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from tilepress.errors import QuantizationError
from tilepress.quantize.calibration.conversations import conversation_of
from tilepress.quantize.calibration.rendering import Renderer, in_plain_text
from tilepress.text import is_prose

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
# Characters of each kind of text for one of the set written for the purpose, which has some 95 thousand.
DOCSTRINGS, DESCRIPTIONS = 0.5, 0.25

Text = TypeVar("Text", bound=Sized)


def default_documents(seed: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of `written_documents`, docstrings and package descriptions, in an order shuffled by `seed`.

    Any beginning of the list has about the same share of each kind. The same for one Python version, one set of
    installed packages, one seed and one chat template. Conversations are rendered by the tokenizer's template.
    """
    written = written_documents(tokenizer)
    kinds = [list(texts) for texts in written.values()]
    characters = sum(len(text) for texts in kinds for text in texts)
    for extra, share in ((docstrings(seed), DOCSTRINGS), (package_descriptions(), DESCRIPTIONS)):
        kinds.append(_first(extra, share * characters))
    for number, texts in enumerate(kinds):
        random.Random(1000 * seed + number).shuffle(texts)
    return merged(kinds)


def _first(texts: Iterator[str], characters: float) -> list[str]:
    """Texts up to so many characters in all."""
    taken = list[str]()
    left = characters
    for text in texts:
        if left <= 0:
            break
        taken.append(text)
        left -= len(text)
    return taken


def merged(kinds: Sequence[Sequence[Text]]) -> list[Text]:
    """All texts, each kind spread evenly over the whole by the length of its texts."""
    placed = []
    for kind, texts in enumerate(kinds):
        whole, before = sum(map(len, texts)), 0
        for text in texts:
            placed.append(((before + len(text) / 2) / whole, kind, text))
            before += len(text)
    return [text for _, _, text in sorted(placed, key=lambda place: place[:2])]


def written_records() -> dict[str, list[dict[str, Any]]]:
    """The records of the set written for the purpose, by the name of their file in `texts/`."""
    folder = files("tilepress.quantize.calibration") / "texts"
    found = {file.name: file for file in folder.iterdir() if file.name.endswith(".jsonl")}
    return {
        name.removesuffix(".jsonl"): [json.loads(line) for line in found[name].read_text(encoding="utf-8").splitlines()]
        for name in sorted(found)
    }


def written_documents(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """The set's texts by file; a conversation that the chat template refuses is written as plain paragraphs."""
    renderer = Renderer(tokenizer)

    def text(record: dict[str, Any]) -> str:
        conversation = conversation_of(record, "the calibration set", renderer.left_out)
        if conversation is None:
            return str(record["text"])
        try:
            return renderer.render(conversation, "the calibration set")
        except QuantizationError:
            messages = in_plain_text(conversation.messages, conversation.tools)
            return "\n\n".join(message["content"] for message in messages)

    return {name: [text(record) for record in records] for name, records in written_records().items()}


def package_descriptions() -> Iterator[str]:
    """Descriptions of the installed packages that tilepress requires: Markdown with code and tables, in sections."""
    try:
        wanted = sorted(requirement for requirement in requires("tilepress") or () if "extra ==" not in requirement)
    except PackageNotFoundError:  # run from its sources
        return
    for requirement in wanted:
        match = re.match(r"[\w.-]+", requirement)
        try:
            found = metadata(match[0] if match else requirement).json
        except PackageNotFoundError:
            continue
        text = str(found.get("description", ""))
        for _ in range(2):  # badges are links in links
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]+>", r"\1", text)
        for section in re.split(r"\n(?=#)", text):
            if len(section.split()) >= 20:
                yield section.strip()


def docstrings(seed: int) -> Iterator[str]:
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
