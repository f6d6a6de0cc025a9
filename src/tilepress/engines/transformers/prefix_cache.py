"""Keys and values of one sequence, for the next that begins like it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from transformers import PreTrainedModel

from tilepress.engines.transformers.growing_cache import GrowingCache
from tilepress.errors import UsageError


class PrefixCache:
    """What a model computed for its last prompt and answer. The next prompt computes what follows their common prefix.

    For `generate` and `Conversation`: prompts with one system message, or a long text that several questions are about,
    compute it once. Holds one sequence, of one model, for one thread at a time.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, the model included."""
        self._past = GrowingCache()
        self._tokens: list[int] = []
        self._model: weakref.ref[PreTrainedModel] | None = None

    def begin(self, model: PreTrainedModel, tokens: Sequence[int]) -> GrowingCache:
        """Keys and values of the longest common prefix with `tokens`, but one of these at least is left to compute.

        Raises UsageError where another model filled the cache.
        """
        if self._model is not None and self._model() is not model:
            raise UsageError(
                "the cache holds keys and values of another model; make a PrefixCache for each, or clear it"
            )
        self._model = weakref.ref(model)
        most = min(len(self._tokens), len(tokens) - 1)
        common = next((i for i in range(most) if self._tokens[i] != tokens[i]), most)
        self._past.keep(common)
        del self._tokens[common:]
        return self._past

    def end(self, tokens: Sequence[int]) -> None:
        """Note the tokens of prompt and answer, of which `begin`'s cache holds the first ones."""
        # The last token was given out and not fed back.
        self._tokens = list(tokens[: self._past.get_seq_length()])
