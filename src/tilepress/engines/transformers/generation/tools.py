"""The tools that a model may call: OpenAI's JSON schemas, or Python functions that transformers makes schemas of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
)

from tilepress.errors import UsageError

Tool = Mapping[str, Any] | Callable[..., Any]

EXAMPLE = '{"type": "function", "function": {"name": …, "description": …, "parameters": {"type": "object", …}}}'


def tool_schemas(tools: Sequence[Tool], source: str = "tools") -> list[Any]:
    """Return schemas for the chat template. Functions need type hints and a docstring that describes each argument.

    source: what messages call the list, such as the name of its file. Raises UsageError that names the entry, counted
    from 1, for one that is no schema and for two of one name.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes) or not tools:
        raise UsageError(f"{source}: has to be a list of at least one tool: [{EXAMPLE}, …]")
    schemas = [_schema(tool, f"{source}: entry {i}") for i, tool in enumerate(tools, 1)]
    names = [schema["function"]["name"] for schema in schemas]
    for i, name in enumerate(names, 1):
        if name in names[: i - 1]:
            raise UsageError(
                f"{source}: entry {i}: a tool before it is called {name!r} too; give each a name of its own"
            )
    return schemas


def check_template(tokenizer: PreTrainedTokenizerBase, schemas: list[Any]) -> None:
    """Raise UsageError for a chat template that would leave tools out."""
    if tokenizer.chat_template is None or "tools" not in tokenizer.get_chat_template(tools=schemas):
        raise UsageError("the model's chat template knows no tools; use a model trained to call them, such as Qwen3")


def _schema(tool: Tool, entry: str) -> Any:
    if callable(tool):
        try:
            return get_json_schema(tool)
        except (DocstringParsingException, TypeHintParsingException) as error:
            raise UsageError(f"{entry}: no schema can be made of the function: {error}") from error
    if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(tool.get("function"), Mapping):
        raise UsageError(f"{entry}: is no tool; write it as {EXAMPLE}")
    function = tool["function"]
    name, parameters = function.get("name"), function.get("parameters", {"type": "object"})
    if not isinstance(name, str) or not name:
        raise UsageError(f'{entry}: "name" is {name!r}; give the function a name: {EXAMPLE}')
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        raise UsageError(
            f'{entry}: "parameters" of {name!r} is no JSON schema of an object; write {{"type": "object", '
            '"properties": {…}, "required": […]}'
        )
    if not isinstance(parameters.get("properties", {}), Mapping):
        raise UsageError(f'{entry}: "properties" of {name!r} is no object; write {{"argument": {{"type": …}}, …}}')
    if not isinstance(function.get("description", ""), str):
        raise UsageError(f'{entry}: "description" of {name!r} is no text')
    return dict(tool)


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
    """Read every `<tool_call>{"name": …, "arguments": {…}}</tool_call>` after the model's thoughts.

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
    """Return where the thoughts at the beginning end. Their first mark is missing where the template has set it."""
    end = text.find(THOUGHT_END)
    if text.lstrip().startswith(THOUGHT_START):
        return len(text) if end < 0 else end + len(THOUGHT_END)
    inside_call = text.rfind(START, 0, max(end, 0)) > text.rfind(END, 0, max(end, 0))
    return 0 if end < 0 or inside_call else end + len(THOUGHT_END)


def _call(text: str, start: int) -> tuple[ToolCall, int]:
    """Return the call whose JSON begins at `start`, white space aside, and its end. ValueError for other text."""
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
