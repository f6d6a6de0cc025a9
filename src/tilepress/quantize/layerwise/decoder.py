"""A decoder whose layers are materialised in float32 one at a time, so that a model larger than memory can be run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from tilepress.checkpoint import ModelShape
from tilepress.checkpoint.safetensors.reader import Stored
from tilepress.errors import QuantizationError
from tilepress.finite import is_finite
from tilepress.models.layer_inputs import FINAL_NORM
from tilepress.models.transformers_config import empty_model, model_config

# Logits are computed for this many positions at a time: with 152 thousand tokens they take 311 MB, softmaxes as much.
POSITIONS = 512
# Rows of the head in memory at a time: 168 MB with 5120 columns.
HEAD_ROWS = 8192


class TensorSource(Protocol):
    """A source of float tensors, such as FloatCheckpoint. path: of the directory, named in errors."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def shape(self) -> ModelShape: ...
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor: ...
    def stored(self, name: str) -> Stored: ...
    def has(self, name: str) -> bool: ...
    def names(self) -> list[str]: ...


class LayerwiseDecoder:
    """The decoder layers of a Llama-like causal language model, run one after the other.

    Attention kernels, position embeddings and masks are those of transformers: the model is built on the meta device
    and its own forward pass is run once over recording layers to learn what each layer is called with.
    """

    def __init__(self, source: TensorSource, device: torch.device) -> None:
        self._source = source
        self.device = device
        config = model_config(source.config, source.path)
        model = empty_model(config, torch.float32, source.path)
        self._model = model.requires_grad_(False)
        rotary = model.model.rotary_emb
        self._rotary = type(rotary)(config=config).to(device)
        self.layers = len(model.model.layers)
        self.vocabulary, self.hidden = source.shape.vocab, source.shape.hidden
        self.eps = float(model.config.rms_norm_eps)

    def load(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Load a tensor or its rows [start, stop), float32 on the device. QuantizationError if it is not finite."""
        stored = self._source.read(name, start, stop).to(self.device)
        tensor = stored.to(torch.float32)
        if not is_finite(stored):
            bad = tensor.numel() - int(tensor.isfinite().sum())
            raise QuantizationError(
                f"{name}: {bad} of {tensor.numel()} values are NaN or infinite; "
                "the source checkpoint is damaged, get it again"
            )
        return tensor

    def has(self, name: str) -> bool:
        return self._source.has(name)

    def empty_layer(self, index: int) -> nn.Module:
        """A copy of decoder layer `index` without weights, on the meta device."""
        return copy.deepcopy(cast(nn.Module, self._model.model.layers[index]))

    def embed(self, tokens: Tensor) -> Tensor:
        """Return hidden states [samples, length, hidden] of token ids [samples, length] (int64, on the CPU).

        Only the rows of these tokens are read.
        """
        rows, places = torch.unique(tokens, return_inverse=True)
        table = torch.cat([self.load("model.embed_tokens.weight", row, row + 1) for row in rows.tolist()])
        return table[places.to(self.device)]

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """Decoder layer `index` with its weights, on the device; they are dropped on exit."""
        layer = self._model.model.layers[index]
        prefix = f"model.layers.{index}."
        layer.load_state_dict({name: self.load(prefix + name) for name in layer.state_dict()}, assign=True)
        layer.requires_grad_(False)
        try:
            yield layer
        finally:
            layer.to("meta")

    def layer_arguments(self, length: int) -> list[dict[str, Any]]:
        """The keyword arguments of each layer for sequences of `length` tokens; they broadcast over samples."""
        recorded: list[dict[str, Any]] = []
        inner = self._model.model
        original, rotary, norm = inner.layers, inner.rotary_emb, inner.norm
        inner.layers = nn.ModuleList([_Recorder(recorded.append) for _ in original])
        inner.rotary_emb, inner.norm = self._rotary, nn.Identity()
        try:
            hidden = torch.zeros(1, length, self._model.config.hidden_size, device=self.device)
            inner(inputs_embeds=hidden, use_cache=False)
        finally:
            inner.layers, inner.rotary_emb, inner.norm = original, rotary, norm
        return recorded

    def norm(self) -> Callable[[Tensor], Tensor]:
        """Return the final norm, from hidden states [..., hidden] to the head's inputs."""
        gain = self.load(FINAL_NORM.gain)
        return lambda hidden: nn.functional.rms_norm(hidden, hidden.shape[-1:], gain, self.eps)

    def head_weight(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the head, which in a tied model is the embedding."""
        tied = not self._source.has("lm_head.weight")
        return self.load("model.embed_tokens.weight" if tied else "lm_head.weight", start, stop)

    def head_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of the head and their slice, HEAD_ROWS at a time."""
        for start in range(0, self.vocabulary, HEAD_ROWS):
            stop = min(start + HEAD_ROWS, self.vocabulary)
            yield slice(start, stop), self.head_weight(start, stop)

    def logits(self, normed: Tensor) -> Tensor:
        """Return logits float32 [positions, vocabulary] for inputs of the head [positions, hidden]."""
        logits = torch.empty(len(normed), self.vocabulary, device=normed.device)
        for rows, block in self.head_blocks():
            torch.mm(normed, block.T, out=logits[:, rows])
        return logits

    def head(self) -> Callable[[Tensor], Tensor]:
        """Return norm and head, held in memory, as a function from states [..., hidden] to logits [..., vocabulary]."""
        norm, weight = self.norm(), self.head_weight(0, self.vocabulary)
        return lambda hidden: norm(hidden) @ weight.T


class _Recorder(nn.Module):
    def __init__(self, record: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._record = record

    def forward(self, hidden: Tensor, **arguments: Any) -> Tensor:
        self._record(arguments)
        return hidden
