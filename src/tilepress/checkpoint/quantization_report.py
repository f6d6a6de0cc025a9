"""The file that says how a directory was quantized. It is for people and tools; no engine needs it."""

from __future__ import annotations

from pathlib import Path

from tilepress.checkpoint.json_files import read_object

REPORT = "quantization_report.json"


def estimated_loss(directory: Path) -> float | None:
    """What the directory's report says quantization adds to the loss, nats a token; None where nothing says so.

    Raises CheckpointError for a report that is no JSON object.
    """
    if not (directory / REPORT).is_file():
        return None
    loss = read_object(directory / REPORT).get("loss")
    return float(loss) if isinstance(loss, (int, float)) and not isinstance(loss, bool) else None
