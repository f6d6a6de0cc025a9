"""Short names for contents, so that what a cache keeps of one text or model is not taken for another's."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

DIGITS = 12


def of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@functools.cache
def of_directory(folder: Path) -> str:
    """Of the names and the bytes of its files, not of folders inside."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            whole.update(f"{file.name} {file.stat().st_size}\n".encode())
            whole.update(file.read_bytes())
    return whole.hexdigest()[:DIGITS]
