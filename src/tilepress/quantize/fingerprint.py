"""What a quantization depends on, short enough to be compared: recipe, calibration text and source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from tilepress.checkpoint import FloatCheckpoint
from tilepress.quantize.recipe import Recipe

# Of a weight file so many bytes are read at each multiple of STRIDE, the header among them: another model of the same
# shapes has other weights everywhere, and a file that was written to has another time.
SAMPLE, STRIDE = 4096, 16 << 20

# Characters of a SHA-256, which says nothing to a reader.
DIGEST = 64


def fingerprint(source: FloatCheckpoint, recipe: Recipe, tokens: Tensor, settled: Mapping[str, Any]) -> dict[str, Any]:
    """Values for JSON by what they are of. settled: what was chosen where the recipe leaves it open.

    tokens: of the calibration, int64 [samples, length].
    """
    return {
        "tilepress": version("tilepress"),
        "recipe": asdict(recipe),
        "settled": dict(settled),
        "calibration text": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "source": {
            "config.json": hashlib.sha256(json.dumps(source.config, sort_keys=True).encode()).hexdigest(),
            **{file.name: _of_file(file) for file in source.files()},
        },
    }


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not the same in two fingerprints, in words; empty where they are equal."""
    changed = []
    for name in {**begun, **now}:
        before, after = begun.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += [f"{name} {difference}" for difference in differences(before, after)]
        elif before != after and isinstance(before, str) and len(before) == DIGEST:
            changed.append(f"{name} is another")
        elif before != after:
            changed.append(f"{name} was {before}, is {after}")
    return changed


def _of_file(file: Path) -> str:
    stat = file.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    for sample in _samples(file, stat.st_size):
        digest.update(sample)
    return digest.hexdigest()


def _samples(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as opened:
        for start in range(0, size, STRIDE):
            opened.seek(start)
            yield opened.read(SAMPLE)
