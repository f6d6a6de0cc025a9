"""A check that a checkpoint does not change while the server starts.

vLLM reads config.json early and the weights later, in other processes. A directory that is replaced in between may have
the same shapes and still be another model.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tilepress.errors import CheckpointError

VARIABLE = "TILEPRESS_DIGEST"


def digest_of(directory: Path) -> str:
    """Return a digest of names, sizes and times of change of config, descriptions and weights, and the path."""
    files = [directory / "config.json", *sorted(directory.rglob("*.safetensors"))]
    files += sorted(directory.glob("quant_model_description*.json"))
    digest = hashlib.sha256()
    for file in filter(Path.exists, files):
        status = file.stat()
        digest.update(f"{file.relative_to(directory)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{digest.hexdigest()} {directory.resolve()}"


def check_unchanged(directory: str | Path) -> None:
    """Raise CheckpointError where this directory has changed since `tilepress serve` was started with it.

    vLLM's processes inherit the digest in a variable; those that Ray starts on other machines do not, and check
    nothing.
    """
    directory = Path(directory)
    digest, _, path = os.environ.get(VARIABLE, "").partition(" ")
    if digest and path == str(directory.resolve()) and digest_of(directory) != f"{digest} {path}":
        raise CheckpointError(f"{directory}: changed while the server was starting; start it again")
