"""How `run`, `chat` and `eval` load a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilepress.cli.console import ERR, print_note

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    path: str, device: str, dtype: str | None, trust_remote_code: bool, max_model_len: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`tilepress.load` with a sign of life on a terminal, without transformers' own bar, and a note about YaRN."""
    from transformers.utils.logging import disable_progress_bar

    import tilepress

    disable_progress_bar()  # type: ignore[no-untyped-call]
    with ERR.status(f"loading {path}"):
        model, tokenizer = tilepress.load(
            path, device=device, dtype=dtype, max_model_len=max_model_len, trust_remote_code=trust_remote_code
        )
    if max_model_len is not None and max_model_len == model.config.max_position_embeddings:
        rotary = model.config.rope_parameters
        if rotary.get("rope_type") == "yarn":
            print_note(
                f"YaRN is on: {max_model_len} tokens, {rotary['factor']:.2f} times the "
                f"{rotary['original_max_position_embeddings']} that the model was trained for; leave "
                "--max-model-len out where prompts are short"
            )
    return model, tokenizer
