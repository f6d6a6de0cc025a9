"""What a quantization depends on: recipe, calibration text and source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

import tilepress
from tilepress.checkpoint import FloatCheckpoint
from tilepress.checkpoint.fingerprint import describe_file
from tilepress.quantize.recipe import Recipe


def fingerprint(source: FloatCheckpoint, recipe: Recipe, tokens: Tensor, settled: Mapping[str, Any]) -> dict[str, Any]:
    """Values for JSON by what they are of. settled: what was chosen where the recipe leaves it open.

    tokens: of the calibration, int64 [samples, length].
    """
    return {
        "tilepress": tilepress.__version__,
        "recipe": asdict(recipe),
        "settled": dict(settled),
        "calibration text": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "source": {
            "config.json": hashlib.sha256(json.dumps(source.config, sort_keys=True).encode()).hexdigest(),
            **{file.name: describe_file(file) for file in source.files()},
        },
    }
