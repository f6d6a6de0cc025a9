"""Requests of OpenAI's protocol, and the answers to them.

Read from OpenAI's API reference; `top_k`, `min_p`, `repetition_penalty`, `chat_template_kwargs` and `reasoning_content`
are as vLLM has them.
"""

from __future__ import annotations

import inspect
import json
import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PreTrainedTokenizerBase

from tilepress.engines.transformers.generate import Generation
from tilepress.errors import UsageError
from tilepress.text import well_formed

# Below it logits would overflow, and the likeliest token is taken anyway.
LEAST_TEMPERATURE = 1e-4


class StreamOptions(BaseModel):
    include_usage: bool = False


# What a client may not say of the rendering: it would replace the template, cut the prompt or fill the memory.
RENDERING = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"tokenizer_kwargs"}


class Sampling(BaseModel):
    """What both kinds of request have. Fields that clients send beside these are ignored, and so is null."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    presence_penalty: float = 0
    frequency_penalty: float = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    logprobs: bool | int | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields

    def options(self) -> dict[str, Any]:
        """Return options of `complete`; what is not given comes from the model's generation_config.json.

        Raises UsageError for what the engine does not have.
        """
        for name, off in (("presence_penalty", 0), ("frequency_penalty", 0), ("logprobs", (None, False, 0))):
            value = getattr(self, name)
            if value not in (off if isinstance(off, tuple) else (off,)):
                raise UsageError(f"{name} is {value}: this server does not have it; leave it out, or serve with vLLM")
        if self.top_k is not None and self.top_k < -1:
            raise UsageError(f"top_k is {self.top_k}; it has to be 1 or more, or 0 or -1 for all tokens")
        options: dict[str, Any] = {"top_p": self.top_p, "min_p": self.min_p}
        options |= {"repetition_penalty": self.repetition_penalty, "top_k": 0 if self.top_k == -1 else self.top_k}
        options = {name: value for name, value in options.items() if value is not None}
        if self.temperature is not None and self.temperature < LEAST_TEMPERATURE:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "min_p": None} | {
                name: value for name, value in options.items() if name == "repetition_penalty"
            }
        if self.temperature is not None:
            options |= {"do_sample": True, "temperature": self.temperature}
        return options

    def stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)


class ChatRequest(Sampling):
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    response_format: dict[str, Any] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def offered_tools(self) -> list[dict[str, Any]] | None:
        """Return the tools that the model may call. Raises UsageError for a choice that cannot be enforced."""
        if self.tool_choice not in (None, "auto", "none"):
            raise UsageError(f"tool_choice is {self.tool_choice!r}: this server has 'auto' and 'none'; vLLM has all")
        if self.response_format not in (None, {"type": "text"}):
            raise UsageError(f"response_format is {self.response_format}: this server has text alone; vLLM has all")
        return self.tools if self.tools and self.tool_choice != "none" else None

    def variables(self) -> dict[str, Any]:
        """Return the variables for the chat template. Raises UsageError for arguments of the rendering itself."""
        for name in self.chat_template_kwargs:
            if name in RENDERING:
                raise UsageError(f"chat_template_kwargs: {name} is no variable of the template that a client may set")
        return self.chat_template_kwargs

    def plain_messages(self) -> list[dict[str, Any]]:
        """Return the messages as chat templates take them: content as text, arguments of calls as objects.

        Raises UsageError, with the number of the message, for anything else.
        """
        return [_plain(message, f"messages[{number}]") for number, message in enumerate(self.messages)]


class CompletionRequest(Sampling):
    prompt: str | list[str] | list[int]
    echo: Literal[False] | None = False
    suffix: None = None

    @property
    def limit(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    def one_prompt(self) -> str | list[int]:
        """Raises UsageError for several prompts."""
        if isinstance(self.prompt, str):
            return well_formed(self.prompt)
        if self.prompt and isinstance(self.prompt[0], int):
            return [int(token) for token in self.prompt]
        if len(self.prompt) != 1:
            raise UsageError(f"there are {len(self.prompt)} prompts; send one a request, several requests at once")
        return well_formed(str(self.prompt[0]))


def _plain(message: dict[str, Any], where: str) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise UsageError(f"{where}: role is {role!r}; it has to be system, user, assistant or tool")
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{where}: has content that is no text; the model reads text alone")
        content = "".join(map(str, texts))
    if content is not None and not isinstance(content, str):
        raise UsageError(f"{where}: content is {type(content).__name__}; it has to be text")
    plain = message | {"role": "system" if role == "developer" else role, "content": well_formed(content or "")}
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise UsageError(f"{where}: tool_calls is {type(calls).__name__}; it has to be a list")
    return plain | ({"tool_calls": [_with_object(call, where) for call in calls]} if calls else {})


def _with_object(call: Any, where: str) -> dict[str, Any]:
    """Return a tool call whose arguments are an object, which OpenAI sends as text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise UsageError(f"{where}: tool_calls has an entry without a function")
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: the arguments of a tool call are no JSON: {error}") from None
    return {**call, "function": {**function, "arguments": arguments}}


class Reply:
    """The objects of one answer. kind: "chat.completion" or "text_completion". model: its name."""

    def __init__(self, kind: str, model: str) -> None:
        prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._kind = kind

    def whole(self, choice: dict[str, Any], answer: Generation) -> dict[str, Any]:
        choices = [{"index": 0, "logprobs": None, **choice}]
        return {**self._head, "object": self._kind, "choices": choices, "usage": usage(answer)}

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return a piece of a streamed answer."""
        kind = f"{self._kind}.chunk" if self._kind == "chat.completion" else self._kind
        return {**self._head, "object": kind, "choices": [{"index": 0, "finish_reason": None, **choice}]}

    def last(self, answer: Generation) -> dict[str, Any]:
        """Return the chunk that has the usage alone."""
        return {**self.chunk({}), "choices": [], "usage": usage(answer)}


def usage(answer: Generation) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def called(answer: Generation) -> list[dict[str, Any]]:
    """Return the tool calls of an answer as OpenAI writes them."""
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in answer.tool_calls
    ]


def error_body(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def event(content: dict[str, Any] | str) -> str:
    """Return one server-sent event."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"data: {text}\n\n"
