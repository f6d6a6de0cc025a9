"""Conversations as text, by the model's chat template."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tilepress.errors import QuantizationError
from tilepress.quantize.calibration.conversations import Conversation

Messages = list[dict[str, Any]]

HERMES = (
    "You may call functions to help the user. These are the functions:\n<tools>\n{tools}\n</tools>\n"
    "Answer with a call as JSON within <tool_call></tool_call>."
)
# Some templates write the day. The text must be the same when an interrupted run is resumed.
TODAY = datetime(2026, 1, 1)
KNOWN_ROLES = ("system", "user", "assistant", "tool")
ASK = {"role": "user", "content": "question"}
PROBE = {"name": "probed", "arguments": {"key": "argued"}}


@dataclass(frozen=True)
class Abilities:
    """What a chat template writes natively, found by a probe of each.

    kinds: of those that `_kinds` names. empty: the content beside calls, "" or None, with which it writes calls.
    """

    kinds: frozenset[str]
    empty: str | None


class Renderer:
    """Renders conversations by a tokenizer's chat template, and counts what of them did not reach the text.

    A template that does not write tools, calls, their results or thoughts is given them in Hermes' form, as Qwen's
    templates write them: definitions in the system message, calls, results and thoughts within tags.
    left_out: by kind. rewritten: conversations in Hermes' form. unanswered: end with what the template puts before an
    answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, unanswered: bool = False) -> None:
        self._tokenizer = tokenizer
        self._unanswered = unanswered
        self.left_out: Counter[str] = Counter()
        self.rewritten = 0

    def render(self, conversation: Conversation, where: str) -> str:
        """QuantizationError, naming `where`, where the template refuses the conversation in both forms."""
        try:
            return self._rendered(conversation.messages, conversation.tools)
        except Exception as error:  # templates raise what they like: jinja's errors, TypeError, their own
            raise QuantizationError(f"{where}: the model's chat template refuses the conversation: {error}") from error

    def note(self) -> str | None:
        """What the user should know of the conversations; None where all of them reached the text natively."""
        said = []
        if self.rewritten:
            said.append(
                "the chat template does not write all of their tools, calls, results and thoughts: "
                f"{self.rewritten} conversations have them in Hermes' form"
            )
        if self.left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items()))
            said.append(f"left out: {kinds}")
        return "; ".join(said) or None

    def _rendered(self, messages: Messages, tools: list[dict[str, Any]] | None) -> str:
        if self._tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in in_plain_text(messages, tools) if message["content"])
        native: str | None = None
        refusal: Exception | None = None
        try:
            native = self._applied(messages, tools)
        except Exception as error:
            refusal = error
        kinds = _kinds(messages, tools)
        if native is not None and kinds <= self._abilities.kinds:
            self.left_out.update(_missing(messages, native))
            return native
        if refusal is not None and not kinds:
            raise refusal
        plain = in_plain_text(messages, tools)
        try:
            text = self._applied(plain, None)
        except Exception:
            if native is None:
                raise
            # Refused in plain text, as by a template without system messages: what it makes of the original stands.
            self.left_out.update(_missing(messages, native) + Counter({"tool definitions": len(tools or ())}))
            return native
        self.rewritten += 1
        self.left_out.update(_missing(plain, text))
        return text

    @cached_property
    def _abilities(self) -> Abilities:
        answer = {"role": "assistant", "content": "answer"}
        definition = {"type": "function", "function": {"name": "probed", "description": "defined", "parameters": {}}}
        result = {"role": "tool", "name": "probed", "content": "resulted", "tool_call_id": "call00000"}

        def writes(messages: Messages, tools: list[dict[str, Any]] | None, *words: str) -> bool:
            try:
                text = self._apply(messages, tools)
            except Exception:
                return False
            return all(word in text for word in words)

        def calls(content: str | None) -> bool:
            call = {"id": "call00000", "type": "function", "function": PROBE}
            calling = {"role": "assistant", "content": content, "tool_calls": [call]}
            return writes([ASK, calling, result, answer], [definition], "argued", "resulted")

        empty = "" if calls("") else None
        found = {
            "tools": writes([ASK, answer], [definition], "defined"),
            "calls": empty == "" or calls(None),
            "thoughts": writes([ASK, answer | {"reasoning_content": "thought"}], None, "thought"),
        }
        return Abilities(frozenset(kind for kind, written in found.items() if written), empty)

    def _applied(self, messages: Messages, tools: list[dict[str, Any]] | None) -> str:
        empty = self._abilities.empty
        silent = [
            message | {"content": empty} if "tool_calls" in message and not message["content"] else message
            for message in messages
        ]
        return self._apply(silent, tools)

    def _apply(self, messages: Messages, tools: list[dict[str, Any]] | None) -> str:
        known: Any = tools  # functions are known too, which mypy holds against a list of objects
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tools=known,
                tokenize=False,
                add_generation_prompt=self._unanswered,
                strftime_now=TODAY.strftime,
            )
        )


def _kinds(messages: Messages, tools: list[dict[str, Any]] | None) -> set[str]:
    """Return the kinds of things in a conversation that not every template writes: "tools", "calls", "thoughts"."""
    kinds = {"tools"} if tools else set()
    for message in messages:
        if message["role"] == "tool" or "tool_calls" in message:
            kinds.add("calls")
        if "reasoning_content" in message:
            kinds.add("thoughts")
    return kinds


def _missing(messages: Messages, text: str) -> Counter[str]:
    """Messages, calls and thoughts whose words are not in the text; white space and escapes of JSON aside."""
    squeezed = _squeezed(text)
    kinds = Counter[str]()
    for message in messages:
        pieces = message["content"].split("</think>")
        if not _found(pieces[-1], squeezed):
            kinds["messages"] += 1
        if len(pieces) > 1 and not all(_found(piece.replace("<think>", ""), squeezed) for piece in pieces[:-1]):
            kinds["thoughts"] += 1
        if not _found(message.get("reasoning_content", ""), squeezed):
            kinds["thoughts"] += 1
        kinds["tool calls"] += sum(
            not _found(call["function"]["name"], squeezed) for call in message.get("tool_calls", ())
        )
        if message["role"] not in KNOWN_ROLES and message["role"] not in squeezed:
            kinds[f"messages of the role {message['role']}"] += 1
    return +kinds


def _found(words: str, squeezed: str) -> bool:
    return _squeezed(words) in squeezed or _squeezed(json.dumps(words, ensure_ascii=False)[1:-1]) in squeezed


def _squeezed(text: str) -> str:
    return "".join(text.split())


def in_plain_text(messages: Messages, tools: list[dict[str, Any]] | None) -> Messages:
    """The same of system, user and assistant alone, with tools, calls, results and thoughts in Hermes' form."""
    plain: Messages = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1]["content"].endswith("</tool_response>"):  # results stand in one turn, as at Qwen's
                plain[-1]["content"] += f"\n{result}"
            else:
                plain.append({"role": "user", "content": result})
            continue
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
        said = [content, *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
        if "reasoning_content" in message:
            said.insert(0, f"<think>\n{message['reasoning_content'].strip()}\n</think>\n")
        plain.append({"role": message["role"], "content": "\n".join(filter(None, said))})
    if tools:
        definitions = HERMES.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
        if plain and plain[0]["role"] == "system":
            plain[0]["content"] = f"{plain[0]['content']}\n\n{definitions}".strip()
        else:
            plain.insert(0, {"role": "system", "content": definitions})
    return plain
