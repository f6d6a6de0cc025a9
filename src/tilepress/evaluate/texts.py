"""A held-out text that needs no download."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

from tilepress.text import is_prose


def held_out_english() -> str:
    """Prose of Python's language reference, which comes with Python: about 200 thousand characters.

    Headings, code, grammar and tables are left out, and what several topics repeat is taken once. The same for one
    version of Python: compare numbers of one version only. Calibration uses another text, the library's docstrings.
    """
    paragraphs: dict[str, None] = {}
    for topic in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[topic]):
            if prose := _prose(block):
                paragraphs.setdefault(prose)
    return "\n\n".join(paragraphs)


def _prose(block: str) -> str:
    """The block as one line without markup; empty where it is not a paragraph of prose."""
    lines = block.strip("\n").splitlines()
    if not lines or lines[0].startswith("   "):  # code, grammar and tables are indented
        return ""
    text = re.sub(r"^(\* |\d+\. )", "", " ".join(" ".join(lines).split()))
    text = re.sub(r"(?<!\w)\*{1,2}([^*]+)\*{1,2}(?!\w)", r"\1", text)
    return text if is_prose(text) else ""
