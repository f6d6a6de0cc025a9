"""Telling whether a checkpoint is still the one that the server was started for.

vLLM reads config.json early and the weights later, in other processes. A directory that is replaced in between may fit
the first in all its shapes and still be another model.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tilepress.errors import CheckpointError

VARIABLE = "TILEPRESS_STAMP"


def stamp(directory: Path) -> str:
    """The path, and a digest of names, sizes and times of change of what decides what the model computes."""
    files = [directory / "config.json", *sorted(directory.rglob("*.safetensors"))]
    files += sorted(directory.glob("quant_model_description*.json"))
    digest = hashlib.sha256()
    for file in filter(Path.exists, files):
        status = file.stat()
        digest.update(f"{file.relative_to(directory)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{digest.hexdigest()} {directory.resolve()}"


def check_unchanged(directory: str | Path) -> None:
    """Raises CheckpointError where `tilepress serve` has stamped this directory and it is not as it was then.

    vLLM's processes inherit the stamp; those that Ray starts on other machines do not, and check nothing.
    """
    directory = Path(directory)
    digest, _, path = os.environ.get(VARIABLE, "").partition(" ")
    if digest and path == str(directory.resolve()) and stamp(directory) != f"{digest} {path}":
        raise CheckpointError(f"{directory}: changed while the server was starting; start it again")
