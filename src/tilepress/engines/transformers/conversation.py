"""A chat of several turns that computes each token once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.engines.transformers.generate import Generation, complete, render
from tilepress.engines.transformers.growing_cache import GrowingCache
from tilepress.errors import UsageError


class Conversation:
    """Messages so far, and the keys and values of their tokens.

    Each turn renders the whole conversation anew and keeps what the cache has of it: the longest common prefix. So a
    template that changes earlier turns, as those do that drop earlier thoughts, costs time and never correctness.

    messages: {"role", "content"} of every turn, the system message first where there is one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises UsageError for a model without a chat template."""
        if tokenizer.chat_template is None:
            raise UsageError(
                "the model has no chat template, so that it cannot hold a conversation; use a chat or instruct model"
            )
        self.messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self._model, self._tokenizer, self._variables = model, tokenizer, template_variables
        self._tokens: list[int]
        self._forget()

    def say(
        self, text: str, *, max_new_tokens: int = 512, on_text: Callable[[str], None] | None = None, **sampling: Any
    ) -> Generation:
        """Add a user's message and the model's answer to it, which is returned. Arguments and errors as of `generate`.

        Where it raises, an interrupt by the user included, the conversation is as it was before.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        tokens = render(messages, self._tokenizer, self._variables)
        self._keep(tokens)
        try:
            answer = complete(
                self._model,
                self._tokenizer,
                tokens,
                max_new_tokens=max_new_tokens,
                cache=self._cache,
                on_text=on_text,
                **sampling,
            )
        except BaseException:
            self._forget()  # some layers may hold tokens that others do not
            raise
        # The last token was given out and not fed back.
        self._tokens = [*tokens, *answer.tokens][: self._cache.get_seq_length()]
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def _keep(self, tokens: Sequence[int]) -> None:
        """Drop what the cache holds beyond the common prefix with `tokens`; one of them at least has to be computed."""
        most = min(len(self._tokens), len(tokens) - 1)
        common = next((i for i in range(most) if self._tokens[i] != tokens[i]), most)
        self._cache.keep(common)
        del self._tokens[common:]

    def _forget(self) -> None:
        self._cache = GrowingCache()
        self._tokens = []
