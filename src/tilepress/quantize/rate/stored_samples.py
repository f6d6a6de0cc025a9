"""Samples of weights that are kept in files, so that those of a deep model need no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from tilepress.checkpoint.safetensors.reader import TensorFiles
from tilepress.quantize.rate.weight_scales import WeightSample

_TENSORS = ("columns", "rate", "relative", "least", "sensitivity", "cost")
_WEIGHTS = "weights"


def sample_tensors(name: str, sample: WeightSample) -> dict[str, Tensor]:
    """What `StoredSamples` reads, by tensor name."""
    tensors = {f"{name}.sample.{part}": getattr(sample, part).cpu().contiguous() for part in _TENSORS}
    return tensors | {f"{name}.sample.{_WEIGHTS}": torch.tensor([sample.weights])}


class StoredSamples(Sequence[WeightSample]):
    """WeightSamples, each read when it is asked for. names: of those that were added, in this order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._files: list[TensorFiles] = []

    def add(self, name: str, stored: TensorFiles) -> None:
        """The sample of this name in `stored`."""
        self.names.append(name)
        self._files.append(stored)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> WeightSample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WeightSample]: ...
    def __getitem__(self, index: int | slice) -> WeightSample | Sequence[WeightSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name, stored = self.names[index], self._files[index]
        tensors = {part: stored.read(f"{name}.sample.{part}") for part in _TENSORS}
        return WeightSample(**tensors, weights=int(stored.read(f"{name}.sample.{_WEIGHTS}")))
