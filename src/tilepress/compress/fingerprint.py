"""What the result of a job depends on, and what of it has changed since an earlier run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tilepress
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint

# Of each file so much is read: all of a JSON file, the header of a safetensors file. Of the rest size and time tell.
_READ = 1 << 20


def fingerprint(source: W8A8SCheckpoint | W8A8SCCheckpoint, tp: int) -> dict[str, Any]:
    """JSON: version of tilepress, number of parts, and by name the size, time and beginning of each file of `source`.

    The files are weights, descriptions, config and what is copied along; others do not count.
    """
    files = {*source.files(), *source.auxiliary_files()}
    for folder in {source.path, *(file.parent for file in source.files())}:
        files |= set(folder.glob("*.json"))
    described = {str(file.relative_to(source.path)): _describe(file) for file in sorted(files)}
    return {"tilepress": tilepress.__version__, "tp": tp, "files": described}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each difference between two fingerprints in words, such as "tp was 2 and is 4"."""
    found = [
        f"{key} was {before.get(key)} and is {now[key]}"
        for key in now
        if key != "files" and before.get(key) != now[key]
    ]
    old, new = before.get("files", {}), now["files"]
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            found.append(f"{name} is gone")
        elif name not in old:
            found.append(f"{name} is new")
        else:
            found += [f"{name} has another {key}" for key in new[name] if old[name].get(key) != new[name][key]]
    return found


def _describe(file: Path) -> dict[str, Any]:
    status = file.stat()
    with file.open("rb") as opened:
        beginning = hashlib.sha256(opened.read(_READ)).hexdigest()
    return {"size": status.st_size, "beginning": beginning, "time of change": status.st_mtime_ns}
