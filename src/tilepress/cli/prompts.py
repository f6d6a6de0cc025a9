"""The prompts of `tilepress run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tilepress.errors import UsageError

SEED = "What's deep learning?"


def read_prompts(prompts: Sequence[str] | None, file: Path | None) -> list[str]:
    """Those of the command line and then those of the file, one a line; a question of our own where there are none.

    Raises UsageError for a file that cannot be read or holds no prompt.
    """
    if file is None:
        return list(prompts or [SEED])
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {file}: {error}; give a UTF-8 text file with a prompt a line") from error
    if not lines:
        raise UsageError(f"--prompts {file}: holds no prompt; write one a line")
    return [*(prompts or []), *lines]
