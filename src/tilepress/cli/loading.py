"""How `run`, `chat` and `eval` load a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilepress.cli.console import ERR

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    path: str, device: str, dtype: str | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`tilepress.load` with a sign of life on a terminal, and without transformers' own bar."""
    from transformers.utils.logging import disable_progress_bar

    import tilepress

    disable_progress_bar()  # type: ignore[no-untyped-call]
    with ERR.status(f"loading {path}"):
        return tilepress.load(path, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
