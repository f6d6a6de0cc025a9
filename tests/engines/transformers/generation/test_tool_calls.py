"""Tool calls in an answer: read whatever surrounds them, and malformed ones reported with nothing lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilepress.engines.transformers import ToolCall
from tilepress.engines.transformers.generation.tools import parse_tool_calls

PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ROME = PARIS.replace("Paris", "Rome")


def weather(city: str) -> ToolCall:
    return ToolCall("get_weather", {"city": city})


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("No need.", "No need.", ()),
        (PARIS, "", (weather("Paris"),)),
        (f"Let me look.\n{PARIS}\n{ROME}", "Let me look.", (weather("Paris"), weather("Rome"))),
        (PARIS.removesuffix("\n</tool_call>"), "", (weather("Paris"),)),
        (f"<think>\nMaybe {ROME}?\n</think>\n\n{PARIS}", f"<think>\nMaybe {ROME}?\n</think>", (weather("Paris"),)),
        (f"Maybe {ROME}?\n</think>\n\n{PARIS}", f"Maybe {ROME}?\n</think>", (weather("Paris"),)),
        (f"<think>\nMaybe {ROME}", f"<think>\nMaybe {ROME}", ()),
        (PARIS.replace("Paris", "<think></think>"), "", (weather("<think></think>"),)),
        ('<tool_call>{"name": "now"}</tool_call>', "", (ToolCall("now", {}),)),
        (PARIS.replace("Paris", "</tool_call>"), "", (weather("</tool_call>"),)),
    ],
)
def test_calls_are_read(text: str, content: str, calls: tuple[ToolCall, ...]) -> None:
    parsed = parse_tool_calls(text)
    assert (parsed.content, parsed.calls, parsed.errors) == (content, calls, ())


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ('{"name": "get_weather", "arguments": {"city": ', "Expecting value"),
        ("get_weather(Paris)", "Expecting value"),
        ('["get_weather"]', 'no object with a "name"'),
        ('{"name": 3}', 'no object with a "name"'),
        ('{"name": "get_weather", "arguments": "Paris"}', '"arguments" is no object'),
        ('{"name": "get_weather"} and more', "</tool_call> is missing"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_malformed_call_is_reported_and_left_in_the_text(inside: str, message: str) -> None:
    broken = f"<tool_call>{inside}</tool_call>"
    parsed = parse_tool_calls(f"{broken}\n{PARIS}")
    assert parsed.calls == (weather("Paris"),)
    assert parsed.content == broken
    (error,) = parsed.errors
    assert error.startswith("tool call 1 cannot be read: ")
    assert message in error
    assert broken in error
    assert parse_tool_calls(broken).content == broken


TEXT = st.text().filter(lambda text: "</think>" not in text)
JSON = st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT) | st.dictionaries(TEXT, TEXT)


@given(st.lists(st.tuples(TEXT, st.dictionaries(TEXT, JSON)), max_size=4))
def test_every_call_comes_back(calls: list[tuple[str, dict[str, object]]]) -> None:
    objects = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    parsed = parse_tool_calls("\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in objects))
    assert parsed.calls == tuple(ToolCall(name, arguments) for name, arguments in calls)
    assert parsed.errors == ()


PIECES = st.sampled_from(["<tool_call>", "</tool_call>", "<think>", "</think>", '{"name": "f"', "}", "[", '"', " "])


@given(st.lists(PIECES).map("".join))
def test_no_text_raises(text: str) -> None:
    parsed = parse_tool_calls(text)
    if not parsed.calls:
        assert parsed.content == text
