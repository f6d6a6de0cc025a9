"""Perplexity of a model on a text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.evaluate.windows import chunks, final_states, log_probabilities, token_windows


@dataclass(frozen=True)
class Perplexity:
    """perplexity = exp(nats). nats: mean negative log-likelihood of the `tokens` predictions.

    The text was cut into `windows` windows of up to `window` tokens.
    """

    perplexity: float
    nats: float
    tokens: int
    windows: int
    window: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int = 512,
    max_windows: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Return the perplexity of `text`, cut into windows of `window` tokens that each begin with the start token.

    Every token of the text is predicted once, from the tokens before it in its window; for a model without a start
    token, all but the first one of each window. max_windows: evaluate only the first ones. progress: called with the
    number of finished windows and of all. Raises UsageError for a text or window that cannot be evaluated and for
    logits that are not finite; CheckpointError for a broken chat template.
    """
    windows = token_windows(model, tokenizer, text, window, max_windows)
    nats, tokens = 0.0, 0
    for done, ids in enumerate(windows, start=1):
        states, targets = final_states(model, ids), ids[0, 1:]
        for part in chunks(model, len(targets)):
            nats += surprise(log_probabilities(model, states[part]), targets[part])
        tokens += len(targets)
        if progress is not None:
            progress(done, len(windows))
    return Perplexity(to_perplexity(nats / tokens), nats / tokens, tokens, len(windows), window)


def surprise(log_probability: Tensor, targets: Tensor) -> float:
    """Negative log-likelihood of targets [positions] under log_probability [positions, vocabulary], summed, in nats."""
    return float(-log_probability.gather(-1, targets[:, None]).sum(dtype=torch.float64))


def to_perplexity(nats: float) -> float:
    """exp(nats), bounded, since a broken model's would overflow a float."""
    return math.exp(min(nats, 700.0))
