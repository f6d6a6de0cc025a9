"""Conversations of calibration files: the forms that the field writes, brought to one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilepress.errors import QuantizationError
from tilepress.text import well_formed

# In lower case: names of OpenAI, ShareGPT, LLaMA-Factory and ms-swift. Others reach the template as they are.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
CALLING = ("function_call", "tool_call")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
ARGUMENTS = ("arguments", "parameters", "input")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")


@dataclass(frozen=True)
class Conversation:
    """messages: OpenAI's form: "role", "content" (a text), and where there are "reasoning_content" and "tool_calls".

    A call is {"type": "function", "function": {"name", "arguments"}} with arguments as an object, which templates
    expect. tools: definitions of functions in OpenAI's form, or None.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None

    def first_question(self) -> Conversation:
        """Return the conversation up to the user's first message; all of it without one."""
        asked = next((i for i, message in enumerate(self.messages) if message["role"] == "user"), len(self.messages))
        return Conversation(self.messages[: asked + 1], self.tools)


def conversation_of(record: Mapping[str, Any], where: str, left_out: Counter[str]) -> Conversation | None:
    """The conversation that a record holds; None where it has none.

    {"messages": [{"role", "content"}]} is OpenAI's form, {"conversations": [{"from", "value"}]} ShareGPT's; either list
    may have entries of the other form. "tools" and "system" may stand beside it. left_out: counts what has no place in
    a text. Raises QuantizationError, naming `where`, for an entry of neither form.
    """
    lists = [record[key] for key in ("messages", "conversations") if isinstance(record.get(key), list)]
    entries, *others = [*filter(None, lists), None]
    if entries is None:
        if lists:
            raise QuantizationError(f"{where}: a conversation without messages")
        return None
    left_out.update("second lists of messages" for other in others if other)
    left_out.update(kind for kind in MEDIA if record.get(kind))
    chosen = record.get("chosen")  # LLaMA-Factory's preferred answer, or the whole preferred conversation
    if isinstance(chosen, str):
        chosen = {"role": "assistant", "content": chosen}
    if chosen:
        entries = [*entries, chosen[-1] if isinstance(chosen, list) else chosen]
    messages = [_message(entry, where, left_out) for entry in entries]
    for key in ("system", "system_prompt"):
        if record.get(key) is not None and not isinstance(record[key], (str, list, dict)):
            raise QuantizationError(f'{where}: "{key}" is {record[key]!r}; a text is needed')
    system = next((text for key in ("system", "system_prompt") if (text := _text(record.get(key), left_out))), "")
    if system:
        if messages[0]["role"] == "system":
            system += "\n\n" + messages.pop(0)["content"]
        messages.insert(0, {"role": "system", "content": well_formed(system)})
    given = (holder.get(key) for holder in (record, *entries) for key in ("tools", "functions"))
    return Conversation(messages, _tools(next(filter(None, given), None), left_out))


def _message(entry: Any, where: str, left_out: Counter[str]) -> dict[str, Any]:
    malformed = QuantizationError(
        f'{where}: each message has to be an object with texts in "role" and "content", or "from" and "value"'
    )
    if not isinstance(entry, dict):
        raise malformed
    role = entry.get("role") or entry.get("from")
    if not isinstance(role, str):
        raise malformed
    role = role.lower()
    said = entry.get("content") or entry.get("value")
    if said is None:
        said = entry.get("content")
    calls = parsed(entry.get("tool_calls") or entry.get("function_call") or [])
    if role in CALLING and not calls and isinstance(found := parsed(said), (dict, list)):
        calls, said = found, None
    message: dict[str, Any] = {"role": ROLES.get(role, role)}
    if calls:
        message["tool_calls"] = [_call(call, where) for call in (calls if isinstance(calls, list) else [calls])]
    if thoughts := next((text for key in THOUGHTS if (text := _text(entry.get(key), left_out))), ""):
        message["reasoning_content"] = well_formed(thoughts)
    for key in ("name", "tool_call_id"):
        if isinstance(entry.get(key), str):
            message[key] = well_formed(entry[key])
    if said is None and len(message) == 1:
        said = entry.get("refusal")
    if said is not None and not isinstance(said, (str, list, dict)):
        raise malformed
    content = _text(said, left_out)
    if not content and said is None and not {"tool_calls", "reasoning_content"} & message.keys():
        raise malformed
    return message | {"content": well_formed(content)}


def _text(content: Any, left_out: Counter[str]) -> str:
    """A content that is a text, parts of which some are texts, or an object, as JSON. Empty for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    texts = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else None
            left_out[f"parts of type {kind}" if isinstance(kind, str) else "parts without a text"] += 1
    return "\n".join(texts)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise QuantizationError(
            f'{where}: each call has to be an object with a "name", or with a "function" that has one'
        )
    arguments: Any = next((function[key] for key in ARGUMENTS if function.get(key) is not None), {})
    return {"type": "function", "function": {"name": function["name"], "arguments": parsed(arguments)}}


def _tools(given: Any, left_out: Counter[str]) -> list[dict[str, Any]] | None:
    found = parsed(given) or []
    tools = []
    for tool in map(parsed, found if isinstance(found, list) else [found]):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            tools.append({"type": "function", "function": function})
        else:
            left_out["tool definitions without a name"] += 1
    return tools or None


def parsed(value: Any) -> Any:
    """What a string of JSON holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits are a plain ValueError
        return value
