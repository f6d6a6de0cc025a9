"""Writing one large tensor to a safetensors file some rows at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tilepress.checkpoint.staging import writing
from tilepress.checkpoint.tensor_files import DTYPES

_CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 8


def stream_tensor(file: Path, name: str, shape: Sequence[int], dtype: torch.dtype, parts: Iterable[Tensor]) -> None:
    """`file` with the one tensor `name`, whose rows, of `dtype` on the CPU, are those of `parts` in their order.

    Raises CheckpointError where the disk is full.
    """
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    entry = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [0, nbytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, name: entry}).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with writing(file, nbytes), file.open("wb", buffering=0) as opened:
        opened.write(struct.pack("<Q", len(header)) + header)
        for part in parts:
            left = part.contiguous().view(torch.uint8).numpy().reshape(-1).data
            while left:
                left = left[opened.write(left) :]
