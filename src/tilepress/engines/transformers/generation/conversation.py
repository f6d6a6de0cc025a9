"""A chat of several turns that computes each token once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.engines.transformers.generate import Generation, complete, render, with_tool_calls
from tilepress.engines.transformers.generation.kv_cache import PrefixCache
from tilepress.engines.transformers.generation.tools import Tool, check_template, tool_schemas
from tilepress.errors import UsageError
from tilepress.text import well_formed


class Conversation:
    """Messages so far, and the keys and values of their tokens.

    Each turn renders the whole conversation anew and keeps what the cache has of it: the longest common prefix. So a
    template that changes earlier turns, for example drops their thoughts, costs time but not correctness.

    messages: {"role", "content"} of every turn, the system message first where there is one; an answer that calls
    tools has "tool_calls" too, as OpenAI writes them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] | None = None,
        cache: PrefixCache | None = None,
    ) -> None:
        """tools: tools that the model may call, as `tool_schemas` takes them.

        cache: one that several conversations, in turn, or prompts of `generate` share; None for one of its own. Raises
        UsageError for a model without a chat template, or one that knows no tools, and what `tool_schemas` raises.
        """
        if tokenizer.chat_template is None:
            raise UsageError(
                "the model has no chat template, so that it cannot hold a conversation; use a chat or instruct model"
            )
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._model, self._tokenizer, self._variables = model, tokenizer, template_variables
        self._tools = None if tools is None else tool_schemas(tools)
        if self._tools is not None:
            check_template(tokenizer, self._tools)
        self._cache = PrefixCache() if cache is None else cache

    def say(
        self,
        text: str,
        *,
        max_new_tokens: int | None = 512,
        on_text: Callable[[str], None] | None = None,
        **sampling: Any,
    ) -> Generation:
        """Add a user's message and the model's answer to it, which is returned. Arguments and errors as of `generate`.

        Where it raises, an interrupt by the user included, the conversation is as it was before.
        """
        return self._answer([{"role": "user", "content": well_formed(text)}], max_new_tokens, on_text, sampling)

    def tool_results(
        self,
        results: Sequence[Any],
        *,
        max_new_tokens: int | None = 512,
        on_text: Callable[[str], None] | None = None,
        **sampling: Any,
    ) -> Generation:
        """Add the results of the last answer's tool calls, and the model's answer to them, which is returned.

        results: one for each of `tool_calls`, in their order; text, or what JSON can hold. Else as `say`. Raises
        UsageError for another number of results, and for one that is neither.
        """
        calls = self.messages[-1].get("tool_calls", []) if self.messages else []
        if not calls or len(results) != len(calls):
            raise UsageError(f"there are {len(results)} results for {len(calls)} open tool calls; give one for each")
        names = [call["function"]["name"] for call in calls]
        added = [
            {"role": "tool", "name": name, "content": _as_text(result, name)}
            for name, result in zip(names, results, strict=True)
        ]
        return self._answer(added, max_new_tokens, on_text, sampling)

    def _answer(
        self,
        added: list[dict[str, Any]],
        max_new_tokens: int | None,
        on_text: Callable[[str], None] | None,
        sampling: Mapping[str, Any],
    ) -> Generation:
        messages = [*self.messages, *added]
        answer = complete(
            self._model,
            self._tokenizer,
            render(messages, self._tokenizer, self._variables, self._tools),
            max_new_tokens=max_new_tokens,
            cache=self._cache,
            on_text=on_text,
            **sampling,
        )
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if self._tools is not None:
            answer, content = with_tool_calls(answer, self._tokenizer)
        if answer.tool_calls:
            message["content"] = content
            message["tool_calls"] = [{"type": "function", "function": call.as_dict()} for call in answer.tool_calls]
        self.messages = [*messages, message]
        return answer


def _as_text(result: Any, name: str) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the result of {name} is neither text nor JSON: {error}") from error
