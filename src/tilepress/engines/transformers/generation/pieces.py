"""An answer's text on its way to the reader: thoughts apart, cut at a stop, tool calls held back."""

from __future__ import annotations

from collections.abc import Sequence

from tilepress.engines.transformers.generation.tools import START, THOUGHT_END, THOUGHT_START

THOUGHTS, CONTENT = "reasoning_content", "content"
Piece = tuple[str, str]
_UNDECIDED, _HELD = "undecided", "held"


class Pieces:
    """Splits text that comes piece by piece into (THOUGHTS or CONTENT, text).

    stops: texts that end the answer and are left out. thoughts: None where the text tells whether it begins with
    thoughts, True where the prompt has set their mark, False where all is content. call: the mark of a tool call, from
    which on the text is held back in `rest`; "" holds all content back, None none. A text that may become a mark waits
    for the next piece.

    stopped: one of `stops` came.
    """

    def __init__(self, stops: Sequence[str] = (), *, thoughts: bool | None = False, call: str | None = None) -> None:
        self.stops, self._call = tuple(stops), call
        self._state = _UNDECIDED if thoughts is None else THOUGHTS if thoughts else CONTENT
        self._text = ""
        self.rest = ""
        self.stopped = self._fresh = False

    def put(self, text: str, *, end: bool = False) -> list[Piece]:
        """Return what is certain now. end: nothing follows."""
        if self.stopped:
            return []
        self._text += text
        if (place := self._stop(self.rest + self._text)) is not None:
            self.stopped = end = True
            held = len(self.rest)
            self.rest, self._text = self.rest[:place], self._text[: max(0, place - held)]
        pieces: list[Piece] = []
        while self._state != _HELD and self._advance(pieces, end):
            pass
        if self._state == _HELD:
            self.rest, self._text = self.rest + self._text, ""
        return [(kind, piece) for kind, piece in pieces if piece]

    def _stop(self, text: str) -> int | None:
        """Return where the first stop begins."""
        return min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=None)

    def _advance(self, pieces: list[Piece], end: bool) -> bool:
        """Hand out what comes before the next mark; return whether a mark came."""
        if self._state == _UNDECIDED:
            begun = self._text.lstrip()
            if not end and THOUGHT_START.startswith(begun):
                return False
            thinks = begun.startswith(THOUGHT_START)
            self._state = THOUGHTS if thinks else CONTENT
            self._text = begun.removeprefix(THOUGHT_START) if thinks else self._text
        if self._fresh and self._state == CONTENT:  # what templates put between thoughts and answer
            self._text = self._text.lstrip()
            self._fresh = not self._text
        mark = THOUGHT_END if self._state == THOUGHTS else self._call
        place = -1 if mark is None else self._text.find(mark)
        if mark is not None and place >= 0:
            pieces.append((self._state, self._text[:place]))
            thought = self._state == THOUGHTS
            self._state, self._fresh = (CONTENT, True) if thought else (_HELD, False)
            self._text = self._text[place + (len(mark) if thought else 0) :]
            return True
        waiting = 0 if end else _begun(self._text, (*self.stops, *([mark] if mark else [])))
        pieces.append((self._state, self._text[: len(self._text) - waiting]))
        self._text = self._text[len(self._text) - waiting :]
        return False


def call_mark(special: Sequence[str]) -> str:
    """Return the mark that tells a tool call in decoded text: "" where it is a special token, which is not decoded."""
    return "" if START in special else START


def _begun(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end of the text may be the beginning of a mark."""
    longest = min(max((len(mark) for mark in marks), default=1) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)
