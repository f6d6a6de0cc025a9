"""A float model in a Hugging Face directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tilepress.checkpoint.architecture import ModelShape, architecture_of, float_tensors
from tilepress.checkpoint.auxiliary import auxiliary_files
from tilepress.checkpoint.descriptions import FLOAT
from tilepress.checkpoint.json_files import read_object
from tilepress.checkpoint.tensor_files import Stored, TensorFiles, find_weights
from tilepress.errors import CheckpointError

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class FloatCheckpoint:
    """config.json with model.safetensors, or its shards and index. Tensors are read when asked for.

    Raises CheckpointError where a tensor of the architecture is missing, has another shape or is not float, where one
    is stored that the architecture does not have, and for a model that is quantized already.
    """

    kind: Literal["float"] = "float"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        self.config: dict[str, Any] = read_object(config)
        self.architecture = architecture_of(self.config, config)
        if self.config.get("quantization_config"):
            method = self.config["quantization_config"]
            method = method.get("quant_method") if isinstance(method, dict) else method
            raise CheckpointError(
                f"{config}: quantization_config says {method!r}, the weights are quantized already; "
                "start from the float model"
            )
        weights = find_weights(path, "model")
        if weights is None:
            raise CheckpointError(f"{path}: no model.safetensors and no model.safetensors.index.json")
        self._files = TensorFiles(weights)
        shape = ModelShape.from_config(self.config, config)
        # A head that is stored though the config calls it tied is a head of its own.
        self.shape = replace(shape, tied=shape.tied and "lm_head.weight" not in self._files)
        expected = float_tensors(self.architecture, self.shape)
        for name, size in expected.items():
            self._files.expect(name, size, FLOAT_DTYPES)
        for name in self._files:
            # Older Llama checkpoints store the rotary frequencies, which follow from the config.
            if name not in expected and not name.endswith(".rotary_emb.inv_freq"):
                raise CheckpointError(
                    f"{self._files.stored(name).file}: {name} is not a tensor of {self.architecture.name} as {config} "
                    "describes it; check that config and weights belong together"
                )
        self._names = list(expected)

    def names(self) -> list[str]:
        """Names of all tensors, embedding first, in the order of the architecture."""
        return list(self._names)

    def has(self, name: str) -> bool:
        return name in self._names

    def tensor(self, name: str) -> Tensor:
        """The tensor in its stored dtype, mapped from the file; not to be written to."""
        if not self.has(name):
            raise CheckpointError(f"{self._files.path}: tensor {name} is missing")
        return self._files.tensor(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) of the tensor in its stored dtype, in memory of their own."""
        return self._files.read(name, start, stop)

    def stored(self, name: str) -> Stored:
        """Dtype, shape and file of the tensor."""
        return self._files.stored(name)

    def inventory(self) -> list[tuple[str, Stored]]:
        """Type (FLOAT) and header of each tensor."""
        return [(FLOAT, self._files.stored(name)) for name in self._names]

    def files(self) -> list[Path]:
        """The weight files."""
        return self._files.files()

    def release(self) -> None:
        """Give the memory of what was read of the weight files back: see `release_pages`."""
        self._files.release()

    def auxiliary_files(self) -> list[Path]:
        return auxiliary_files(self.path)
