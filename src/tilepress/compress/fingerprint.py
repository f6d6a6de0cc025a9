"""What a compression, or another number of parts, depends on."""

from __future__ import annotations

from typing import Any

import tilepress
from tilepress.checkpoint.fingerprint import describe_file
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint


def fingerprint(source: W8A8SCheckpoint | W8A8SCCheckpoint, tp: int) -> dict[str, Any]:
    """JSON: version of tilepress, number of parts, and by name what `describe_file` says of each file of `source`.

    The files are weights, descriptions, config and what is copied along; others do not count.
    """
    files = {*source.files(), *source.auxiliary_files()}
    for folder in {source.path, *(file.parent for file in source.files())}:
        files |= set(folder.glob("*.json"))
    described = {str(file.relative_to(source.path)): describe_file(file) for file in sorted(files)}
    return {"tilepress": tilepress.__version__, "tp": tp, "source": described}
