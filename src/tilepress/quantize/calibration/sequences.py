"""Documents as token sequences of one length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tilepress.errors import QuantizationError
from tilepress.text import start_token

FEWEST_TOKENS = 32


def token_sequences(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str | Sequence[int]],
    *,
    samples: int,
    length: int,
    vocabulary: int,
    source: str = "the calibration text",
) -> Tensor:
    """Token ids int64 [samples, length]: the start token, then the documents, texts or token ids, end to end.

    Fewer sequences where the documents do not fill as many, one shorter sequence where they do not fill one.
    QuantizationError below 32 tokens, or for ids that the model (of `vocabulary` embeddings) does not have.
    """
    first = start_token(tokenizer)
    prefix = [] if first is None else [first]
    room = length - len(prefix)
    stream: list[int] = []
    for document in documents:
        # Newlines keep documents apart; a rendered conversation brings its own start token, where it is welcome too.
        text, tokens = (document, []) if isinstance(document, str) else ("", document)
        stream += [*tokens, *tokenizer(f"{text}\n\n", add_special_tokens=False, verbose=False)["input_ids"]]
        if len(stream) >= samples * room:
            break
    if len(stream) < FEWEST_TOKENS:
        raise QuantizationError(
            f"{source} is only {len(stream)} tokens; "
            f"at least {FEWEST_TOKENS} are needed, and some thousands to be of use"
        )
    check_vocabulary(stream, vocabulary)
    room = min(room, len(stream))
    rows = [prefix + stream[i : i + room] for i in range(0, len(stream) - room + 1, room)]
    return torch.tensor(rows[:samples], dtype=torch.int64)


def check_vocabulary(tokens: Iterable[int], vocabulary: int) -> None:
    """Raise QuantizationError for ids that a model of `vocabulary` embeddings does not have."""
    if (largest := max(tokens)) >= vocabulary:
        raise QuantizationError(
            f"the tokenizer gives token {largest}, the model has only {vocabulary} embeddings; "
            "tokenizer and model do not belong together"
        )
