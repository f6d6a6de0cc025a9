"""Where in a safetensors file the bytes of each tensor are."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def data_offsets(file: Path) -> dict[str, int]:
    """Tensor name -> bytes from the beginning of the file, for a file that safetensors has opened without complaint.

    The format: eight bytes of little-endian length, a JSON header of this length, then the data.
    """
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
