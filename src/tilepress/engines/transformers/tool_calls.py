"""Tool calls in a model's answer, in the format of Qwen3 and Hermes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

START, END = "<tool_call>", "</tool_call>"
THOUGHT_START, THOUGHT_END = "<think>", "</think>"
MARKS = (START, END, THOUGHT_START, THOUGHT_END)

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class ToolCall:
    """A tool's name and the arguments that the model calls it with. Whether they fit its schema is not checked."""

    name: str
    arguments: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class ParsedAnswer:
    """content: the text without its calls. errors: a message for each call that cannot be read, left in content."""

    content: str
    calls: tuple[ToolCall, ...]
    errors: tuple[str, ...]


def parse_tool_calls(text: str) -> ParsedAnswer:
    """Read every `<tool_call>{"name": …, "arguments": {…}}</tool_call>` behind the model's thoughts.

    A last call may lack its end, as where the model's end token took its place. Never raises.
    """
    position = _behind_thoughts(text)
    kept = [text[:position]]
    calls: list[ToolCall] = []
    errors: list[str] = []
    while (start := text.find(START, position)) >= 0:
        kept.append(text[position:start])
        try:
            call, position = _call(text, start + len(START))
            calls.append(call)
        except (ValueError, RecursionError) as error:
            end = text.find(END, start)
            position = len(text) if end < 0 else end + len(END)
            kept.append(text[start:position])
            errors.append(f"tool call {len(calls) + len(errors) + 1} cannot be read: {error}: {text[start:position]}")
    kept.append(text[position:])
    return ParsedAnswer("".join(kept).strip() if calls else text, tuple(calls), tuple(errors))


def _behind_thoughts(text: str) -> int:
    """Where the thoughts end that the text begins with; it does not say so where the template has begun them."""
    end = text.find(THOUGHT_END)
    if text.lstrip().startswith(THOUGHT_START):
        return len(text) if end < 0 else end + len(THOUGHT_END)
    inside_call = text.rfind(START, 0, max(end, 0)) > text.rfind(END, 0, max(end, 0))
    return 0 if end < 0 or inside_call else end + len(THOUGHT_END)


def _call(text: str, start: int) -> tuple[ToolCall, int]:
    """The call whose JSON begins at `start`, white space aside, and where the text goes on. ValueError for another."""
    value, end = json.JSONDecoder().raw_decode(text, _behind_space(text, start))
    end = _behind_space(text, end)
    if not text.startswith(END, end) and end < len(text):
        raise ValueError(f"{END} is missing")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError('no object with a "name"')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError('"arguments" is no object')
    return ToolCall(value["name"], arguments), min(end + len(END), len(text))


def _behind_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return start if match is None else match.end()
