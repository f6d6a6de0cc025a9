"""Sizes as people write them: 90MB, 1.5GiB, 123456."""

from __future__ import annotations

import re

from tilepress.errors import UsageError

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def parse_bytes(option: str, text: str) -> int:
    """KB, MB, GB and TB are decimal, KiB, MiB, GiB and TiB binary. UsageError names `option`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError(f"{option} {text}: no size; write one such as 90MB, 1.5GB or 800MiB")
    return round(float(match[1]) * _UNITS[match[2].lower()])
