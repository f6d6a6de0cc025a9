"""JSON files of a checkpoint. They are untrusted: size, nesting and type are checked before use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilepress.errors import CheckpointError

MAX_BYTES = 64 << 20

# The beginning of the small file that git-lfs puts in place of one that it has not fetched.
_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError where `path` is a git-lfs pointer instead of the file."""
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return
    if pointer:
        raise CheckpointError(
            f"{path}: is a git-lfs pointer, not the file itself; run `git lfs pull` in {path.parent}, or download the "
            "file again"
        )


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises CheckpointError where there is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_BYTES >> 20} MiB, no file of a checkpoint; get it again")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; get the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise CheckpointError(f"{path}: not valid JSON ({error}); get it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {_kind(value)}; it has to be a JSON object")
    return value


def write_object(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a number or boolean")
