"""What every decoder layer reads, kept for the backward pass: in memory, or in a temporary file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tilepress.errors import QuantizationError


def layer_inputs(layers: int, shape: Sequence[int], memory: int) -> Tensor:
    """An empty float32 [layers, *shape] on the CPU; beyond `memory` bytes it is a mapped file without a name.

    The file is in the folder for temporary files and goes with the tensor. QuantizationError where it finds no room.
    """
    nbytes = 4 * layers * int(np.prod(shape))
    if nbytes <= memory:
        return torch.empty(layers, *shape)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise QuantizationError(
            f"{folder}: {nbytes / 1e9:.1f} GB needed for the inputs of {layers} layers and {free / 1e9:.1f} GB free; "
            "set TMPDIR to a folder on a larger disk, or ask for a smaller --sequence-length"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=(layers, *shape)))
