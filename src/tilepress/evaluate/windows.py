"""A text cut into token windows, and a model's predictions on a window."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.errors import UsageError
from tilepress.finite import is_finite
from tilepress.text import start_token

# Logits of one chunk, 64 MiB of float32: a window of 512 tokens with a vocabulary of 152 thousand would take 311 MB.
CHUNK_LOGITS = 1 << 24


def token_windows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, size: int, most: int | None = None
) -> list[Tensor]:
    """Return windows int64 [1, <= size]: the start token, then tokens of the text, each in at most one window.

    most: return only the first `most` windows. Raises UsageError for a size or vocabulary that does not fit the model,
    for `most` below 1, and for a text without a token to predict.
    """
    context = model.config.max_position_embeddings
    if not 2 <= size <= context:
        raise UsageError(f"a window of {size} tokens: it has to be from 2 to {context}, the model's context")
    if most is not None and most < 1:
        raise UsageError(f"the number of windows is {most}; it has to be at least 1")
    first = start_token(tokenizer)
    prefix = [] if first is None else [first]
    room = size - len(prefix)
    stop = None if most is None else most * room
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:stop]
    rows = [prefix + tokens[i : i + room] for i in range(0, len(tokens), room)]
    rows = [row for row in rows if len(row) > 1]  # a last token on its own has nothing to be predicted from
    if not rows:
        raise UsageError("the text is shorter than two tokens; there is nothing to evaluate")
    largest = max(max(row) for row in rows)
    if largest >= model.config.vocab_size:
        raise UsageError(
            f"the tokenizer gives token {largest}, the model has {model.config.vocab_size}; they do not match"
        )
    return [torch.tensor([row], device=model.device) for row in rows]


def final_states(model: PreTrainedModel, window: Tensor) -> Tensor:
    """Return [tokens - 1, hidden], the head's inputs that predict each token after the first."""
    states: Tensor = model.base_model(input_ids=window, use_cache=False).last_hidden_state
    return states[0, :-1]


def log_probabilities(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Return log probabilities float32 [positions, vocabulary]. Raises UsageError where a logit is not finite."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits = head(states).float()
    if not is_finite(logits):
        raise UsageError(f"the model's logits are not finite in {model.dtype}; try float32, or check the checkpoint")
    return torch.log_softmax(logits, dim=-1)


def chunks(model: PreTrainedModel, positions: int) -> Iterator[slice]:
    """Yield slices of positions with at most CHUNK_LOGITS logits each."""
    step = max(1, CHUNK_LOGITS // int(model.config.vocab_size))
    for start in range(0, positions, step):
        yield slice(start, start + step)
