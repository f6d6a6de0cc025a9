"""An answer's text on its way to the client, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilepress.engines.transformers.generation.pieces import CONTENT, THOUGHTS, Pieces, call_mark


def run(pieces: Pieces, text: str, size: int = 1) -> dict[str, str]:
    """Feed the text `size` characters at a time and join what comes out by kind."""
    found = {THOUGHTS: "", CONTENT: ""}
    for start in range(0, len(text), size):
        for kind, piece in pieces.put(text[start : start + size]):
            found[kind] += piece
    for kind, piece in pieces.put("", end=True):
        found[kind] += piece
    return found


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "thoughts", "content"),
    [
        ("<think>\nhm\n</think>\n\nYes.", "\nhm\n", "Yes."),
        ("Yes <think> no", "", "Yes <think> no"),
        ("<think>cut off", "cut off", ""),
        ("<thing", "", "<thing"),
        ("  ", "", "  "),
        ("", "", ""),
    ],
)
def test_thoughts_are_told_by_their_marks(text: str, thoughts: str, content: str, size: int) -> None:
    assert run(Pieces(thoughts=None), text, size) == {THOUGHTS: thoughts, CONTENT: content}


def test_the_prompt_may_have_begun_the_thoughts() -> None:
    assert run(Pieces(thoughts=True), "hm</think>Yes.") == {THOUGHTS: "hm", CONTENT: "Yes."}


@given(st.text("ab<S", max_size=30), st.integers(1, 5))
def test_a_text_ends_at_the_first_stop(text: str, size: int) -> None:
    pieces = Pieces(["<S", "aab"])
    places = [place for stop in ("<S", "aab") if (place := text.find(stop)) >= 0]
    assert run(pieces, text, size)[CONTENT] == (text[: min(places)] if places else text)
    assert pieces.stopped == bool(places)


@pytest.mark.parametrize("size", [1, 4, 50])
def test_tool_calls_are_held_back(size: int) -> None:
    pieces = Pieces(thoughts=None, call=call_mark([]))
    text = "<think>a <tool_call></think>I look. <tool_call>{}</tool_call> more"
    assert run(pieces, text, size) == {THOUGHTS: "a <tool_call>", CONTENT: "I look. "}
    assert pieces.rest == "<tool_call>{}</tool_call> more"


def test_all_is_held_back_where_the_mark_is_not_decoded() -> None:
    pieces = Pieces(thoughts=None, call=call_mark(["<tool_call>"]))
    assert run(pieces, "<think>a</think>{}", 2) == {THOUGHTS: "a", CONTENT: ""}
    assert pieces.rest == "{}"


@pytest.mark.parametrize("size", [1, 4, 50])
def test_held_text_ends_at_a_stop_too(size: int) -> None:
    pieces = Pieces(["Paris"], call=call_mark([]))
    assert run(pieces, "I look. <tool_call>{Paris}</tool_call>", size)[CONTENT] == "I look. "
    assert (pieces.rest, pieces.stopped) == ("<tool_call>{", True)
