"""The file that says how a directory was quantized. It is for people and tools; no engine needs it."""

from __future__ import annotations

from pathlib import Path

from tilepress.checkpoint.json_files import read_object

REPORT = "quantization_report.json"


def estimated_loss(directory: Path) -> float | None:
    """What the directory's report says quantization adds to the loss, nats a token; None where nothing says so.

    Raises CheckpointError for a report that is no JSON object.
    """
    return _number(directory, "loss")


def stored_bits(directory: Path) -> float | None:
    """Bits a weight that the codec takes for the directory's integers, by its report. None and errors as above."""
    return _number(directory, "bits")


def _number(directory: Path, key: str) -> float | None:
    if not (directory / REPORT).is_file():
        return None
    value = read_object(directory / REPORT).get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
