"""Fingerprints: what the result of a long job depends on, kept beside it and compared when the job continues."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# A sample of a file is its beginning, all of a JSON file and the header of a safetensors file, and SAMPLE bytes at each
# multiple of STRIDE. Another model of the same shapes has other weights everywhere, and a file that was written to has
# another time of change.
BEGINNING, SAMPLE, STRIDE = 1 << 20, 4096, 16 << 20

# Characters of a SHA-256, which messages leave out.
_DIGEST = 64


def describe_file(file: Path) -> dict[str, Any]:
    """Return, for JSON, the file's size, its time of change, and a digest of samples of its content."""
    status = file.stat()
    digest = hashlib.sha256()
    for sample in _samples(file, status.st_size):
        digest.update(sample)
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    changed = f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}.{nanoseconds:09d}"
    return {"size": status.st_size, "time of change": changed, "content": digest.hexdigest()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences of two fingerprints, in words such as "tp was 2, is 4"; empty where they are equal."""
    changed = []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += [f"{name} {difference}" for difference in differences(old, new)]
        elif name not in now:
            changed.append(f"{name} is gone")
        elif name not in before:
            changed.append(f"{name} is new")
        elif old != new and isinstance(old, str) and len(old) == _DIGEST:
            changed.append(f"{name} differs")
        elif old != new:
            changed.append(f"{name} was {old}, is {new}")
    return changed


def _samples(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as opened:
        yield opened.read(BEGINNING)
        for start in range(STRIDE, size, STRIDE):
            opened.seek(start)
            yield opened.read(SAMPLE)
