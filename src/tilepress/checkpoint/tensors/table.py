"""The tensors of a W8A8S directory or a W8A8SC part, checked by one rule against description and config."""

from __future__ import annotations

import torch

from tilepress.checkpoint.description import FLOAT, W8A8S, W8A8SC, Description
from tilepress.checkpoint.safetensors.reader import TensorFiles

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The dtypes in which the tensors of a quantized linear, its weight aside, are read.
SCALE_DTYPES = {
    "input_scale": FLOAT_DTYPES,
    "input_offset": (torch.int8, *FLOAT_DTYPES),
    "deq_scale": (torch.int64, torch.float32),
    "quant_bias": (torch.int32,),
    "weight_sums": (torch.int32,),
}


class TensorTable:
    """types: name -> type in the description, of every tensor checked so far, in order.

    The methods check and add tensors. They raise CheckpointError for a tensor that is missing, that the description
    lacks or calls another type, and for another shape or dtype.
    """

    def __init__(self, files: TensorFiles, description: Description) -> None:
        self._files, self._description = files, description
        self.types: dict[str, str] = {}

    def add_float(self, name: str, size: tuple[int, ...]) -> None:
        """A float tensor."""
        self._files.stored(name)
        self._description.require(name, (FLOAT,))
        self._files.expect(name, size, FLOAT_DTYPES)
        self.types[name] = FLOAT

    def add_float_and_bias(self, prefix: str, size: tuple[int, ...]) -> None:
        """A float tensor `prefix`.weight, and `prefix`.bias [size[0]] where it is stored."""
        self.add_float(f"{prefix}.weight", size)
        if f"{prefix}.bias" in self._files:
            self.add_float(f"{prefix}.bias", size[:1])

    def add_weight(self, prefix: str, size: tuple[int, ...], kind: str) -> None:
        """An int8 weight [n, k] of a quantized linear or embedding; kind: W8A8S, W8A8S_DYNAMIC or W8A8_DYNAMIC."""
        self._add(f"{prefix}.weight", size, (torch.int8,), kind)

    def add_scales(self, prefix: str, n: int, kind: str, *, sums: bool = False) -> None:
        """Scales, offset and quant_bias of a quantized linear of n rows; sums: its weight_sums too."""
        for name, dtypes in SCALE_DTYPES.items():
            if name != "weight_sums" or sums:
                size = (1,) if name.startswith("input") else (n,)
                self._add(f"{prefix}.{name}", size, dtypes, kind)

    def add_weight_scale(self, prefix: str, n: int) -> None:
        """The weight_scale of a quantized embedding of n rows."""
        self._add(f"{prefix}.weight_scale", (n,), (torch.float32,), W8A8S)

    def _add(self, name: str, size: tuple[int, ...], dtypes: tuple[torch.dtype, ...], kind: str) -> None:
        self._files.stored(name)
        # Some releases of the vendor's manual put W8A8SC into a W8A8S directory.
        self._description.require(name, (W8A8S, W8A8SC) if kind == W8A8S else (kind,))
        self._files.expect(name, size, dtypes)
        self.types[name] = kind
