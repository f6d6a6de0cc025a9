"""Divergence of a model's predictions from those of a reference model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.errors import UsageError
from tilepress.evaluate.perplexity import surprise, to_perplexity
from tilepress.evaluate.windows import chunks, final_states, log_probabilities, token_windows

QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Divergence:
    """kl: mean over `tokens` predictions of KL(reference || model), in nats.

    quantiles: of the KL of single predictions, by QUANTILES; the last one is the worst prediction.
    same_top: share of predictions whose first choice is the same. perplexity, reference_perplexity: of the two models
    on the same text, in `windows` windows of up to `window` tokens.
    """

    kl: float
    quantiles: dict[float, float]
    same_top: float
    perplexity: float
    reference_perplexity: float
    tokens: int
    windows: int
    window: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def divergence(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int = 512,
    max_windows: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Divergence:
    """Return the KL divergence of `model` from `reference` on `text`, which is cut as in `perplexity`.

    Raises UsageError as `perplexity` does, and where the models have different vocabularies.
    """
    if model.config.vocab_size != reference.config.vocab_size:
        raise UsageError(
            f"the model has {model.config.vocab_size} tokens and the reference {reference.config.vocab_size}; "
            "the reference has to be the model that the other was made from"
        )
    windows = token_windows(model, tokenizer, text, window, max_windows)
    states = (final_states(reference, ids.to(reference.device)) for ids in windows)
    return divergence_on_windows(model, reference, windows, states, window=window, progress=progress)


@torch.inference_mode()
def divergence_on_windows(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    windows: Sequence[Tensor],
    states_of_reference: Iterable[Tensor],
    *,
    window: int,
    unscored: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Divergence:
    """`divergence` on windows from `token_windows`, of up to `window` tokens each.

    states_of_reference: `final_states(reference, ids)` of each window; they can be reused to compare several models.
    unscored: predictions at the start of each window that are left out, fewer than the window has.
    """
    of_predictions, nats, reference_nats, same, tokens = [], 0.0, 0.0, 0, 0
    for done, (ids, reference_states) in enumerate(zip(windows, states_of_reference, strict=True), start=1):
        targets = ids[0, 1 + unscored :]
        states = final_states(model, ids)[unscored:]
        reference_states = reference_states[unscored:]
        for part in chunks(model, len(targets)):
            q = log_probabilities(model, states[part])
            p = log_probabilities(reference, reference_states[part]).to(q.device)
            of_predictions.append((p.exp() * (p - q)).sum(dim=-1, dtype=torch.float64))
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
            nats += surprise(q, targets[part])
            reference_nats += surprise(p, targets[part])
        tokens += len(targets)
        if progress is not None:
            progress(done, len(windows))
    kl = torch.cat(of_predictions).clamp_(min=0.0)  # float32 logarithms of equal distributions sum up to -1e-8
    quantiles = torch.quantile(kl, torch.tensor(QUANTILES).to(kl))
    return Divergence(
        kl=float(kl.mean()),
        quantiles=dict(zip(QUANTILES, quantiles.tolist(), strict=True)),
        same_top=same / tokens,
        perplexity=to_perplexity(nats / tokens),
        reference_perplexity=to_perplexity(reference_nats / tokens),
        tokens=tokens,
        windows=len(windows),
        window=window,
    )
