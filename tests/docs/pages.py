"""Pages of the documentation, as tests see them: fenced blocks, commands, headings, links and tables."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = (*READMES, *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block and the word behind its fence."""

    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[Block]:
    """The fenced blocks in one of these languages, or all of them."""
    found = [Block(*match.groups()) for match in _BLOCK.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)


def code_spans(text: str) -> list[str]:
    """What stands between backticks in prose and tables."""
    return _CODE.findall(without_blocks(text))


def lines_of(block: str) -> list[str]:
    """The lines of a shell block, those that end with a backslash joined to the next one."""
    return block.replace("\\\n", " ").splitlines()


def words_of(line: str) -> list[str]:
    """The words of a command line without its comment."""
    return shlex.split(line, comments=True)


def commands(text: str) -> list[list[str]]:
    """The words of every command in the ```sh blocks."""
    found = [words_of(line) for block in blocks(text, "sh") for line in lines_of(block.text)]
    return [words for words in found if words]


def links(text: str) -> list[str]:
    """Targets of links and pictures that lead to files of this repository."""
    prose = _CODE.sub("", without_blocks(text))
    return [target for target in _LINK.findall(prose) if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings: lower case, dashes for spaces, no punctuation."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(without_blocks(text)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def table_rows(text: str) -> list[str]:
    return [line for line in without_blocks(text).splitlines() if line.startswith("|")]
