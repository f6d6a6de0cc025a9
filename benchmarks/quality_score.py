"""How far a model is from the float one, whose final states are kept from one measurement to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.evaluate.perplexity import surprise
from tilepress.evaluate.windows import chunks, final_states, log_probabilities, token_windows

WINDOW = 512


@dataclass(frozen=True)
class Score:
    """kl: mean KL(float || model) in nats. ratio: of the perplexities. same_top: share of equal first choices."""

    kl: float
    ratio: float
    same_top: float
    tokens: int


class Scorer:
    """Scores on the first `tokens` tokens of a text."""

    def __init__(self, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> None:
        self._reference = reference
        self._windows = token_windows(reference, tokenizer, text, WINDOW, -(-tokens // (WINDOW - 1)))
        self._states: list[Tensor] = []

    @torch.inference_mode()
    def score(self, model: PreTrainedModel) -> Score:
        if not self._states:
            self._states = [final_states(self._reference, window) for window in self._windows]
        kl = nats = reference_nats = 0.0
        same = tokens = 0
        for window, reference_states in zip(self._windows, self._states, strict=True):
            targets, states = window[0, 1:], final_states(model, window)
            for part in chunks(model, len(targets)):
                p = log_probabilities(self._reference, reference_states[part])
                q = log_probabilities(model, states[part])
                same += int((p.argmax(-1) == q.argmax(-1)).sum())
                nats += surprise(q, targets[part])
                reference_nats += surprise(p, targets[part])
                kl += float((p.exp() * (p - q)).sum(dtype=torch.float64))
            tokens += len(targets)
        return Score(kl / tokens, math.exp((nats - reference_nats) / tokens), same / tokens, tokens)
