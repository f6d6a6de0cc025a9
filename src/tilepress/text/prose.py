"""What reads as prose: how texts for calibration and evaluation leave out code, tables and headings."""

from __future__ import annotations

FEWEST_WORDS = 12
PLAIN = 0.8


def is_prose(paragraph: str) -> bool:
    """Whether it has a dozen words or more, and most of them are plain ones, letters and punctuation."""
    words = paragraph.split()
    plain = sum(word.strip(".,;:'\"()").isalpha() for word in words)
    return len(words) >= FEWEST_WORDS and plain >= PLAIN * len(words)


def well_formed(text: str) -> str:
    """`text` with U+FFFD in place of lone surrogates, as a cut emoji in JSON or a byte of no UTF-8 leaves them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
