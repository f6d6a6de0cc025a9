"""Evaluation text: prose of four sources, none of which calibration reads.

Python's language reference comes with Python; Debian's reference, policy and FAQ are packages of a few megabytes that
apt downloads without root. Calibration takes docstrings of Python's standard library.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from benchmarks.quality.packages import debian_package

from tilepress.evaluate import held_out_english
from tilepress.text import is_prose

T = TypeVar("T")

BOOKS = {
    "debian-reference-en": "usr/share/debian-reference/debian-reference.en.txt.gz",
    "debian-policy": "usr/share/doc/debian-policy/policy.txt.gz",
    "debian-faq": "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz",
}
# Quotation marks, brackets and the numbers of footnotes may follow.
SENTENCE_END = re.compile(r"""[.:?!]["”’)]*( \[\d+\])*$""")


def evaluation_text(cache: Path) -> str:
    """Paragraphs of all sources in turn, so that any part of the text is of all of them."""
    sources = [held_out_english().split("\n\n"), *(_prose(_book(cache, package)) for package in BOOKS)]
    return "\n\n".join(in_turn(map(sentences, sources)))


def in_turn(sources: Iterable[Iterable[T]]) -> Iterator[T]:
    """Yield one of each source, then the next of each; empty ones are left out."""
    return (part for part in chain.from_iterable(zip_longest(*sources)) if part)


def sentences(paragraphs: Iterable[str]) -> list[str]:
    """Those that end as a sentence does, which tables of contents and captions do not."""
    return [paragraph for paragraph in paragraphs if SENTENCE_END.search(paragraph)]


def _book(cache: Path, package: str) -> str:
    return gzip.decompress((debian_package(cache, package) / BOOKS[package]).read_bytes()).decode()


def _prose(book: str) -> list[str]:
    """Its paragraphs on one line each, but for tables, code, lists and headings."""
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", book))
    return list(dict.fromkeys(paragraph for paragraph in paragraphs if is_prose(paragraph)))
