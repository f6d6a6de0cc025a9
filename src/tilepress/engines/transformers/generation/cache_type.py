"""How keys and values are kept: in float32, float16 or int8."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tilepress.errors import UsageError

SCALE_BYTES = 4
LARGEST_FLOAT16 = 65504.0


class CacheType(Enum):
    """How a row, the keys or the values of one head and token, is kept.

    float16: numbers beyond its range as its largest. int8: so many integers and behind them a float32, the scale that
    they are multiplied by, which makes the largest magnitude 127.
    """

    float32 = torch.float32
    float16 = torch.float16
    int8 = torch.int8

    def row(self, size: int) -> int:
        """Elements of the tensor for a row of `size` numbers."""
        return size + SCALE_BYTES if self is CacheType.int8 else size

    def stored(self, rows: Tensor) -> Tensor:
        """Return float rows [..., size] as they are kept."""
        if self is CacheType.float16:
            return rows.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half()
        if self is CacheType.float32:
            return rows.float()
        scale = rows.float().abs().amax(-1, keepdim=True) / 127
        scale = torch.where(scale.isfinite(), scale, torch.nan)
        integers = torch.where(scale > 0, rows / scale, 0).round()
        return torch.cat([integers.to(torch.int8), scale.view(torch.int8)], dim=-1)

    def restored(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """Return kept rows as [..., size] of `dtype`; the tensor itself where it is."""
        if self is CacheType.int8:
            scale = stored[..., -SCALE_BYTES:].contiguous().view(torch.float32)
            return (stored[..., :-SCALE_BYTES] * scale).to(dtype)
        return stored.to(dtype)


def bytes_a_token(model: PreTrainedModel) -> int:
    """Return the bytes that keys and values of one token take in a model with a cache type."""
    config, kept = model.config, cache_type(model)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = model.dtype if kept is None else kept.value
    row = size if kept is None else kept.row(size)
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * row * dtype.itemsize)


def named(choice: str | None) -> CacheType | None:
    """Return the type of this name, None for None. Raises UsageError for another word."""
    if choice is None:
        return None
    if choice not in CacheType.__members__:
        raise UsageError(f"--kv {choice}: use one of {', '.join(CacheType.__members__)}")
    return CacheType[choice]


def choose(choice: CacheType | None, model: PreTrainedModel, *, compressed: bool, fast: bool) -> CacheType | None:
    """Return how a model's keys and values are kept; None: in the type of its activations.

    choice: None for float16 with a compressed model, whose activations are rounded to 8 bits, and float32 with a float
    model. fast: the model takes the fast decode path, the only one that reads other types without converting all of
    them for each token. Raises UsageError for a choice without that path.
    """
    if choice is None:
        return CacheType.float16 if fast and compressed else None
    if not fast:
        raise UsageError(
            f"--kv {choice.name}: for Llama, Mistral, Qwen2 and Qwen3 in float32 on the cpu only; leave it out for "
            f"{type(model).__name__} in {str(model.dtype).removeprefix('torch.')} on {model.device}"
        )
    return choice


def set_cache_type(model: Any, kept: CacheType | None) -> None:
    """Note how the caches that are made for a model keep keys and values."""
    model.tilepress_cache_type = kept


def cache_type(model: Any) -> CacheType | None:
    """Return what `set_cache_type` noted; None for a model that tilepress did not load."""
    kept: CacheType | None = getattr(model, "tilepress_cache_type", None)
    return kept
