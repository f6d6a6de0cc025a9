"""One decode step for all answers that are generated at the same time, each in a thread of its own."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tilepress.engines.transformers.generation.decode_step import DecodeStep, Part
from tilepress.engines.transformers.generation.kv_cache import GrowingCache

# Seconds, for each stream of the step before, that a step waits for them. Between steps a stream draws its token and
# tells its listener, which takes some .3 ms; who takes longer joins a later step. SmolLM2, eight streams: 540, 557 and
# 551 tokens a second with .5, 1 and 2 ms (two cores of a Zen 4).
PATIENCE = 0.001
# Tokens of an answer that are computed at once, drafts among them; more are a part of a prompt.
FEW_TOKENS = 32


class SharedStep:
    """A `DecodeStep` whose callers are threads: tokens that wait at the same time are computed in one call.

    The first of those that wait makes the call for all. A call takes the next tokens of every stream, and a part of one
    prompt, so that answers go on while a long prompt is read. What a stream gets does not depend on the others.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Only for models that `DecodeStep` supports."""
        self.native = DecodeStep(model)
        self.threads = torch.get_num_threads()
        self._changed = threading.Condition()
        self._waiting: list[_Request] = []
        self._batch: list[_Request] = []  # being computed, by the first one's thread
        self._awaited: set[Stream] = set()
        self._patient_until = 0.0
        self.streams = 0

    def compute(self, stream: Stream, part: Part) -> Tensor:
        """Return what `DecodeStep.together` gives for the part. Raises what it raises."""
        request = _Request(stream, part)
        try:
            with self._changed:
                self._waiting.append(request)
                self._came(stream)
            while True:
                with self._changed:
                    while not request.done and not self._may_begin():
                        self._changed.wait(self._patience())
                    if request.done:
                        return request.result()
                    self._begin(request)
                self._compute(self._batch)
        finally:
            with self._changed:
                self._give_up(request)

    def leave(self, stream: Stream) -> None:
        """The stream asks for nothing more."""
        with self._changed:
            self._came(stream)

    def _came(self, stream: Stream) -> None:
        self._awaited.discard(stream)
        self._changed.notify_all()

    def _may_begin(self) -> bool:
        return not self._batch and (not self._awaited or time.monotonic() >= self._patient_until)

    def _patience(self) -> float | None:
        """Return how long to wait at most for something to change."""
        return None if self._batch else max(self._patient_until - time.monotonic(), 0)

    def _begin(self, own: _Request) -> None:
        """Take `own`, and all others but prompts beside a prompt, from those that wait."""
        prompt, batch = own.is_prompt, [own]
        for request in self._waiting:
            if request is not own and not (prompt and request.is_prompt):
                batch.append(request)
                prompt = prompt or request.is_prompt
        self._waiting = [request for request in self._waiting if request not in batch]
        self._batch = batch

    def _compute(self, batch: list[_Request]) -> None:
        error: Exception | None = None
        logits: list[Tensor] = []
        try:
            logits = self.native.together([request.part for request in batch], self.threads)
        except Exception as raised:
            error = raised
        with self._changed:
            for number, request in enumerate(batch):
                if error is None:
                    request.succeed(logits[number])
                else:
                    request.fail(error)
            self._end({request.stream for request in batch})

    def _end(self, awaited: set[Stream]) -> None:
        """The batch is done with; the next one waits a while for `awaited`."""
        self._awaited = awaited
        self._patient_until = time.monotonic() + PATIENCE * (1 + len(awaited))
        self._batch = []
        self._changed.notify_all()

    def _give_up(self, request: _Request) -> None:
        """Make sure that nobody waits for a request that has ended, by an interrupt perhaps."""
        if self._batch and self._batch[0] is request:  # interrupted while it computed for others too
            self._waiting += [other for other in self._batch[1:] if not other.done]
            self._end(set())
        if request in self._waiting:
            self._waiting.remove(request)
            self._changed.notify_all()


class Stream:
    """One thread's answer, computed beside those of others. `prompt` and `step` are as those of `DecodeStep`."""

    def __init__(self, shared: SharedStep) -> None:
        self._shared = shared
        self.takes_prompts = shared.native.takes_prompts

    def prompt(self, tokens: Tensor, cache: GrowingCache) -> Tensor:
        """Return logits [1, vocabulary] after all of tokens [1, n]."""
        parts = self._shared.native.parts_of_prompt(tokens, cache)
        return [self._shared.compute(self, part) for part in parts][-1]

    def step(self, tokens: Tensor, cache: GrowingCache) -> Tensor:
        """Return logits [n, vocabulary] after each of tokens [1, n]."""
        return self._shared.compute(self, self._shared.native.part(tokens, cache))

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """For what torch computes, which has one thread in a stream."""
        with own_threads(self._shared.threads):
            yield


class _Request:
    def __init__(self, stream: Stream, part: Part) -> None:
        self.stream, self.part = stream, part
        self._logits: Tensor | None = None
        self._error: Exception | None = None

    @property
    def is_prompt(self) -> bool:
        return self.part.tokens.shape[1] > FEW_TOKENS

    @property
    def done(self) -> bool:
        return self._logits is not None or self._error is not None

    def succeed(self, logits: Tensor) -> None:
        self._logits = logits

    def fail(self, error: Exception) -> None:
        self._error = error

    def result(self) -> Tensor:
        if self._logits is None:
            raise self._error or AssertionError("not computed yet")
        return self._logits


_shared: weakref.WeakKeyDictionary[PreTrainedModel, SharedStep] = weakref.WeakKeyDictionary()
_sharing = threading.Lock()


@contextmanager
def stream(model: PreTrainedModel) -> Iterator[Stream]:
    """Yield a stream of a model that `DecodeStep` supports. Weights must not change while there is one.

    Within it torch has one thread: others spin for milliseconds when they have done their part, on cores that the step
    needs.
    """
    shared: SharedStep | None = None
    own: Stream | None = None
    try:
        with _sharing:
            if model not in _shared:
                _shared[model] = SharedStep(model)
            shared = _shared[model]
            shared.streams += 1
            own = Stream(shared)
        with own_threads(1):
            yield own
    finally:
        if shared is not None and own is not None:
            shared.leave(own)
            with _sharing:
                shared.streams -= 1
                if not shared.streams:
                    del _shared[model]


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """Give what torch computes in this thread so many threads; other threads keep theirs.

    torch.set_num_threads would also change what threads get that begin meanwhile.
    """
    before = torch.get_num_threads()
    _set_threads(count)
    try:
        yield
    finally:
        _set_threads(before)


def _set_threads(count: int) -> None:
    try:
        ctypes.CDLL(None).omp_set_num_threads(count)
    except (AttributeError, OSError, TypeError):  # a torch without OpenMP
        torch.set_num_threads(count)
