"""Keys and values of past tokens, with room for more."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tilepress.engines.transformers.generation.cache_type import CacheType, cache_type
from tilepress.errors import UsageError

# Room for a quarter more tokens than there are, and for this many at least: a token is copied some five times in all,
# where transformers' own dynamic cache copies every token whenever one is added.
SPARE_TOKENS = 256
# Of tensors whose addresses are handed to native code, whatever torch's defaults are.
NATIVE: Any = {"dtype": torch.float32, "device": "cpu"}


@dataclass(frozen=True)
class CacheShape:
    """The keys and values of a model's token."""

    layers: int
    heads: int
    head_size: int


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's cache: `keys` and `values` [batch, heads, tokens, head size] are views of the used part of a buffer.

    transformers crops or selects sequences by replacing the views. Where they are no longer in the buffer, the next
    update makes a new buffer. kept: how rows are kept, None for the type of the first keys. Where that is another type,
    keys and values are made for whoever asks, all of them for each update.
    """

    _buffer: Tensor  # [2, batch, heads, room, row]
    _length: int  # tokens in use, where there are no views
    _views: list[Tensor | None]  # keys and values; None until somebody asks for them

    def __init__(self, kept: CacheType | None = None) -> None:
        self._kept = kept
        self._views = [None, None]
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def keys(self) -> Tensor:
        return self._view(0)

    @keys.setter
    def keys(self, keys: Tensor) -> None:
        self._views[0] = keys

    @property
    def values(self) -> Tensor:
        return self._view(1)

    @values.setter
    def values(self, values: Tensor) -> None:
        self._views[1] = values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._buffer = key_states.new_empty(0)

    def get_seq_length(self) -> int:
        return self._length if self.is_initialized and self._views[0] is None else super().get_seq_length()

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove < 0 and self.is_initialized and self._views[0] is None:
            self.use(max(0, self._length + tokens_to_remove))
        else:
            super().crop(tokens_to_remove)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append states [batch, heads, new tokens, head size]; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length, new = self.get_seq_length(), key_states.shape[-2]
        self._make_room(key_states.shape, length + new)
        self._write(length, key_states, value_states)
        self.use(length + new)
        return self.keys, self.values

    def buffer_for(self, tokens: int, heads: int, head_size: int) -> Tensor:
        """Return the buffer [2, 1, heads, room, row], with room for `tokens` tokens in all.

        Raises UsageError where the cache holds several sequences, or another model's keys and values.
        """
        if not self.is_initialized:
            empty = torch.empty(1, heads, 0, head_size, **NATIVE)
            self.lazy_initialization(empty, empty)
        shape = (1, heads, tokens, head_size)
        view = self._views[0]
        held = self._is_for(shape) if view is None else (*view.shape[:2], view.shape[-1]) == (1, heads, head_size)
        if not held and self.get_seq_length():
            raise UsageError(
                "the cache holds keys and values of several sequences or of another model; make one for each"
            )
        self._make_room(shape, tokens)
        return self._buffer

    def use(self, length: int) -> None:
        """Make the first `length` tokens of the buffer all tokens of the cache."""
        self._length = length
        self._views = [None, None]

    def _view(self, which: int) -> Tensor:
        view = self._views[which]
        if not self.is_initialized or view is not None:
            return cast(Tensor, view)
        used = self._buffer.narrow(3, 0, self._length)
        if self._kept is not None and self._kept.value != self.dtype:
            return self._kept.restored(used[which], self.dtype)
        self._views = list(used.unbind(0))
        return used[which]

    def _write(self, start: int, *states: Tensor) -> None:
        """Write keys and values behind the first `start` tokens of the buffer."""
        for place, rows in zip(self._buffer.narrow(3, start, states[0].shape[-2]), states, strict=True):
            place.copy_(rows if self._kept is None else self._kept.stored(rows))

    def _row(self, size: int) -> int:
        return size if self._kept is None else self._kept.row(size)

    def _is_for(self, shape: Sequence[int]) -> bool:
        """Return whether the buffer is for states of this shape, whatever the number of tokens."""
        batch, heads, _, size = shape
        buffer = self._buffer
        return buffer.dim() == 5 and buffer.shape[:3] == (2, batch, heads) and buffer.shape[4] == self._row(size)

    def _make_room(self, shape: Sequence[int], needed: int) -> None:
        """Make a new buffer for states of this shape, unless this one is for them and has room for `needed` tokens."""
        batch, heads, _, size = shape
        view, before = self._views[0], self._buffer
        in_place = view is None or view.data_ptr() in (0, before.data_ptr())
        if in_place and self._is_for(shape) and before.shape[3] >= needed:
            return
        room = needed + max(SPARE_TOKENS, needed // 4)
        dtype = self.dtype if self._kept is None else self._kept.value
        length = self.get_seq_length()
        # Not an inference tensor even in inference mode: those cannot be written to outside it.
        with torch.inference_mode(False):
            self._buffer = torch.empty((2, batch, heads, room, self._row(size)), dtype=dtype, device=self.device)
        if length and view is None:
            self._buffer.narrow(3, 0, length).copy_(before.narrow(3, 0, length))
        elif length:
            self._write(0, self.keys, self.values)


class GrowingCache(Cache):
    """A transformers cache that appends in place. Every layer keeps all tokens, so that any number can be cropped.

    kept: how rows are kept, None for the type of the first keys.
    """

    def __init__(self, kept: CacheType | None = None) -> None:
        new_layer: Any = partial(GrowingLayer, kept)  # transformers' type is that of a class, and it is only called
        super().__init__(layer_class_to_replicate=new_layer)
        self.kept = kept

    def buffers_for(self, tokens: int, shape: CacheShape) -> list[Tensor]:
        """Return each layer's buffer [2, 1, heads, room, row], with room for `tokens` tokens in all."""
        while len(self.layers) < shape.layers:
            self.layers.append(GrowingLayer(self.kept))
        layers = cast(list[GrowingLayer], self.layers)
        return [layer.buffer_for(tokens, shape.heads, shape.head_size) for layer in layers]

    def use(self, length: int) -> None:
        """Make the first `length` tokens of the buffers all tokens of the cache."""
        for layer in cast(list[GrowingLayer], self.layers):
            layer.use(length)

    def keep(self, tokens: int) -> None:
        """Drop all but the first `tokens`."""
        if excess := self.get_seq_length() - tokens:
            self.crop(-excess)


class PrefixCache:
    """Keys and values of a model's last prompt and answer. The next prompt computes what follows the common prefix.

    For `generate` and `Conversation`: a system message, or a long text that several questions are about, is computed
    once. Holds one sequence of one model, for one thread at a time.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, the model included."""
        self._past: GrowingCache | None = None
        self._tokens: list[int] = []
        self._model: weakref.ref[PreTrainedModel] | None = None

    @property
    def tokens(self) -> int:
        """The number of tokens in the cache."""
        return len(self._tokens)

    def known(self, tokens: Sequence[int]) -> int:
        """Return how many of the first tokens are in the cache."""
        most = min(len(self._tokens), len(tokens))
        return next((i for i in range(most) if self._tokens[i] != tokens[i]), most)

    def begin(self, model: PreTrainedModel, tokens: Sequence[int]) -> GrowingCache:
        """Return keys and values of the longest common prefix with `tokens`; at least one token is left to compute.

        Raises UsageError where another model filled the cache.
        """
        if self._model is not None and self._model() is not model:
            raise UsageError(
                "the cache holds keys and values of another model; make a PrefixCache for each, or clear it"
            )
        self._model = weakref.ref(model)
        if self._past is None:
            self._past = GrowingCache(cache_type(model))
        common = min(self.known(tokens), len(tokens) - 1)
        self._past.keep(common)
        del self._tokens[common:]
        return self._past

    def end(self, tokens: Sequence[int]) -> None:
        """Note the tokens of prompt and answer; the cache that `begin` returned holds the first ones."""
        # The last token was given out and not fed back.
        self._tokens = list(tokens[: self._past.get_seq_length() if self._past is not None else 0])
