"""config.json as transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from tilepress.errors import CheckpointError


def model_config(fields: Mapping[str, Any], directory: Path) -> PreTrainedConfig:
    """The configuration of these fields, model_type among them. Raises CheckpointError where transformers refuses it.

    directory: whose config.json is named then.
    """
    try:
        return AutoConfig.for_model(**fields)
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:
        reason = error.__cause__ or error if isinstance(error, StrictDataclassError) else error
        raise CheckpointError(f"{directory / 'config.json'}: transformers refuses it: {reason}") from error
