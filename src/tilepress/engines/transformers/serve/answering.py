"""Answers in threads: several at once share native calls, the others wait, and each begins with what is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from tilepress.engines.transformers.generate import Generation, complete
from tilepress.engines.transformers.generation.kv_cache import PrefixCache
from tilepress.engines.transformers.generation.pieces import Piece, Pieces


class Halt(StoppingCriteria):
    """Ends an answer behind the next token once it is set, by another thread, or where a stop is in its last tokens.

    The streamed text cannot tell in time: it comes word by word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: int, stops: Sequence[str]) -> None:
        """prompt: its number of tokens."""
        self._event = threading.Event()
        self._tokenizer, self._prompt, self._stops = tokenizer, prompt, stops
        self._tail = 4 * max(map(len, stops), default=0)  # a character may have four tokens

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Tensor:
        halted = self._event.is_set() or (bool(self._stops) and self._has_stop(input_ids[0, self._prompt :]))
        return torch.full((len(input_ids),), halted, device=input_ids.device)

    def _has_stop(self, answer: Tensor) -> bool:
        text = str(self._tokenizer.decode(answer[-self._tail :].tolist(), skip_special_tokens=True))
        return any(stop in text for stop in self._stops)


class Answering:
    """One model for many clients. streams: answers at once, each with keys and values of its own; others wait.

    An answer takes the free cache that knows most of its prompt, so that the turns of a conversation are computed once.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, streams: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="answer")
        self._free = [PrefixCache() for _ in range(streams)]
        self._lock = threading.Lock()

    async def answer(
        self, tokens: Sequence[int], pieces: Pieces, **options: Any
    ) -> AsyncGenerator[Generation | list[Piece]]:
        """Yield what `pieces` makes of the text, as it comes, and the answer in the end.

        A stop in the text ends the answer. options: as of `complete`. Where the iterator is closed, as when the client
        is gone, the answer ends behind the token under way. Raises what `complete` does.
        """
        loop, halt = asyncio.get_running_loop(), Halt(self.tokenizer, len(tokens), pieces.stops)
        queue: asyncio.Queue[Generation | list[Piece] | BaseException] = asyncio.Queue()

        def hand_over(item: Generation | list[Piece] | BaseException) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def split(text: str) -> None:
            if found := pieces.put(text):
                hand_over(found)

        def work() -> None:
            try:
                answer = self._answer(tokens, split, halt, options)
                hand_over(pieces.put("", end=True))
                hand_over(answer)
            except BaseException as error:
                hand_over(error)

        job = self._pool.submit(work)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Generation):
                    return
        finally:
            halt.set()
            job.cancel()

    def _answer(
        self, tokens: Sequence[int], on_text: Callable[[str], None], halt: Halt, options: dict[str, Any]
    ) -> Generation:
        if halt.is_set():
            raise CancelledError  # nobody waits any more
        with self._cache(tokens) as cache:
            return complete(
                self.model,
                self.tokenizer,
                tokens,
                cache=cache,
                on_text=on_text,
                stopping_criteria=[halt],
                **options,
            )

    @contextmanager
    def _cache(self, tokens: Sequence[int]) -> Iterator[PrefixCache]:
        with self._lock:
            cache = self._chosen(tokens)
            self._free.remove(cache)
        try:
            yield cache
        finally:
            with self._lock:
                self._free.append(cache)

    def _chosen(self, tokens: Sequence[int]) -> PrefixCache:
        """Return the free cache most of which the prompt begins with, else an empty one, else the least recently used.

        All conversations share the template's first tokens: a cache is not given up for these.
        """
        best = max(self._free, key=lambda cache: cache.known(tokens))
        if 2 * best.known(tokens) >= max(1, best.tokens):
            return best
        return next((cache for cache in self._free if not cache.tokens), self._free[0])

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
