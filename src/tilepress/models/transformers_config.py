"""config.json and generation_config.json as transformers reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilepress.errors import CheckpointError
from tilepress.jobs.json_files import read_object

_LEFT_OUT = ("quantization_config", "return_dict", "use_return_dict", "output_attentions", "output_hidden_states")

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedConfig


def model_config(fields: Mapping[str, Any], directory: Path) -> PreTrainedConfig:
    """Return the configuration of these fields, model_type among them.

    A quantization_config is left out, since transformers would look for a quantizer. So are fields that choose the form
    of outputs, which callers here decide. Raises CheckpointError, naming the config.json of `directory`, where
    transformers refuses the fields.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    known = {key: value for key, value in fields.items() if key not in _LEFT_OUT}
    try:
        return AutoConfig.for_model(**known)
    except Exception as error:  # a field of the wrong type or out of range leads to any exception
        reason = error.__cause__ or error if isinstance(error, StrictDataclassError) else error
        raise CheckpointError(f"{directory / 'config.json'}: transformers refuses it: {reason}") from error


def empty_model(config: PreTrainedConfig, dtype: torch.dtype, directory: Path) -> Any:
    """Build transformers' causal language model of this config without weights, on the meta device, in evaluation mode.

    Raises CheckpointError where it cannot be built, as for an activation function that does not exist.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    except Exception as error:  # as above
        raise CheckpointError(
            f"{directory / 'config.json'}: transformers cannot build the model: {type(error).__name__}: {error}"
        ) from error
    return model.eval()


def generation_config(directory: Path) -> GenerationConfig | None:
    """Read generation_config.json; None without one, where transformers derives it from the model's config.

    Raises CheckpointError for a file that transformers cannot read.
    """
    from transformers import GenerationConfig

    file = directory / "generation_config.json"
    if not file.exists():
        return None
    read_object(file)
    try:
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # as above
        raise CheckpointError(
            f"{file}: transformers cannot read it ({error}); correct or remove it, generation works without it"
        ) from error
