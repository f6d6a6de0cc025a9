"""A longer context than the model was trained for, by YaRN (Peng et al. 2023, arXiv:2309.00071)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from tilepress.errors import CheckpointError, UsageError

# Qwen3's config.json says 40960, 32768 trained and 8192 for the answer; its makers' YaRN settings start from 32768.
_TRAINED = {("Qwen3ForCausalLM", 40960): 32768}
_KEPT = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate")


def context_length(config: Mapping[str, Any], path: Path) -> int:
    """Return how many tokens the model takes as it is. Raises CheckpointError where config.json does not say."""
    length = config.get("max_position_embeddings")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise CheckpointError(f"{path}: max_position_embeddings is {length!r}; it has to be a positive integer")
    return length


def stretched(config: Mapping[str, Any], path: Path, length: int) -> dict[str, Any] | None:
    """Return what replaces entries of config.json for a context of `length` tokens; None where nothing needs to.

    The factor is length / trained length, no larger, since a larger one costs accuracy on short texts. Raises
    UsageError for a model whose rotary embedding is scaled in another way already.
    """
    given = context_length(config, path)
    if length <= given:
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    architecture = str((config.get("architectures") or [""])[0])
    if kind == "default":
        trained = _TRAINED.get((architecture, given), given)
    elif kind == "yarn" and rope.get("original_max_position_embeddings"):
        trained = rope["original_max_position_embeddings"]
    else:
        raise UsageError(
            f"--max-model-len {length}: {path} takes {given} tokens by {kind} scaling, which YaRN cannot stretch; "
            f"give at most {given}"
        )
    parameters = {
        "rope_type": "yarn",
        "factor": length / trained,
        "original_max_position_embeddings": trained,
        "rope_theta": config.get("rope_theta") or rope.get("rope_theta", 10000.0),
    }
    parameters |= {name: rope[name] for name in _KEPT if name in rope}
    return {"max_position_embeddings": length, "rope_parameters": parameters}


def extend_context(config: PreTrainedConfig, fields: Mapping[str, Any], path: Path, max_model_len: int | None) -> None:
    """Set `config` for a context of `max_model_len` tokens, by the settings of `stretched`, as for vLLM.

    fields: those of config.json at `path`. A max_model_len of None changes nothing. Raises UsageError for less than one
    token, and as `stretched` does.
    """
    if max_model_len is None:
        return
    if max_model_len < 1:
        raise UsageError(f"--max-model-len {max_model_len}: has to be at least 1")
    overrides = stretched(fields, path, max_model_len)
    if overrides is not None:
        rotary = getattr(config, "rope_parameters", None) or {}
        config.rope_parameters = {**rotary, **overrides["rope_parameters"]}
        config.max_position_embeddings = overrides["max_position_embeddings"]
