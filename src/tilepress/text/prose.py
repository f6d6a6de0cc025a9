"""Recognition of prose in texts for calibration and evaluation, and a held-out text that needs no download."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

FEWEST_WORDS = 12
PLAIN = 0.8


def is_prose(paragraph: str) -> bool:
    """Return whether a paragraph has 12 words or more, and at least 80 % of them are plain: letters and punctuation."""
    words = paragraph.split()
    plain = sum(word.strip(".,;:'\"()").isalpha() for word in words)
    return len(words) >= FEWEST_WORDS and plain >= PLAIN * len(words)


def well_formed(text: str) -> str:
    """Replace lone surrogates, left by a cut emoji in JSON or a byte that is not UTF-8, with U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def held_out_english() -> str:
    """Return prose of Python's language reference, which comes with Python: about 200 thousand characters.

    Headings, code, grammar and tables are left out, and repeated paragraphs are taken once. The text depends on the
    version of Python: compare numbers of one version only. Calibration uses another text, the library's docstrings.
    """
    paragraphs: dict[str, None] = {}
    for topic in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[topic]):
            if prose := _prose(block):
                paragraphs.setdefault(prose)
    return "\n\n".join(paragraphs)


def _prose(block: str) -> str:
    """Return the block as one line without markup; empty where it is not a paragraph of prose."""
    lines = block.strip("\n").splitlines()
    if not lines or lines[0].startswith("   "):  # code, grammar and tables are indented
        return ""
    text = re.sub(r"^(\* |\d+\. )", "", " ".join(" ".join(lines).split()))
    text = re.sub(r"(?<!\w)\*{1,2}([^*]+)\*{1,2}(?!\w)", r"\1", text)
    return text if is_prose(text) else ""
