"""A longer context than the model was trained for, by YaRN (Peng et al. 2023, arXiv:2309.00071)."""

from __future__ import annotations

from transformers import PreTrainedConfig

from tilepress.errors import UsageError


def extend_context(config: PreTrainedConfig, max_model_len: int | None) -> None:
    """Let the model take so many tokens: beyond max_position_embeddings, by YaRN; up to there nothing changes.

    The factor is their ratio. Raises UsageError for less than one token, and for a model whose rotary embedding is
    scaled already or is of another kind.
    """
    if max_model_len is None:
        return
    if max_model_len < 1:
        raise UsageError(f"--max-model-len {max_model_len}: has to be at least 1")
    trained: int = config.max_position_embeddings
    if max_model_len <= trained:
        return
    rotary = getattr(config, "rope_parameters", None) or {}
    kind = rotary.get("rope_type")
    if kind != "default":
        has = f"its rope_type is {kind}" if kind else "it has none that applies to all layers alike"
        raise UsageError(
            f"--max-model-len {max_model_len}: YaRN needs a model with a plain rotary embedding; of this one {has}; "
            f"use at most the {trained} tokens that the checkpoint allows"
        )
    config.rope_parameters = {
        **rotary,
        "rope_type": "yarn",
        "factor": max_model_len / trained,
        "original_max_position_embeddings": trained,
    }
    config.max_position_embeddings = max_model_len
