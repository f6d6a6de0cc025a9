"""A float model in a Hugging Face directory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tilepress.checkpoint.auxiliary import auxiliary_files
from tilepress.checkpoint.description import FLOAT, completed, description_file
from tilepress.checkpoint.safetensors.reader import Stored, TensorFiles, find_weights
from tilepress.checkpoint.tensors.table import FLOAT_DTYPES
from tilepress.errors import CheckpointError, TilepressWarning
from tilepress.jobs.json_files import read_object
from tilepress.models.architecture import ModelShape, architecture_of, float_tensors
from tilepress.models.clothes import FUSED, without_fused_linears

_PREFIX, _LAYERS = "model.", "model.layers."
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_IGNORED = (".rotary_emb.inv_freq", ".attn.masked_bias")
# Rows of the tables that are compared at a time.
_ROWS = 8192


def has_float_weights(directory: Path) -> bool:
    """Return True if a directory holds weights that `FloatCheckpoint` would read."""
    return find_weights(directory, "model") is not None


def float_weights(directory: Path) -> Path:
    """Return the safetensors file of a float model, or the index of its shards, whichever transformers reads.

    model.safetensors takes precedence over an index of other shards, with a TilepressWarning. Raises CheckpointError
    where there is neither.
    """
    found = find_weights(directory, "model")
    if found is None and description_file(directory) is not None:
        found = find_weights(directory)  # a float model of the vendor's tool, under a name of its own
    if found is None:
        raise CheckpointError(f"{directory}: no model.safetensors and no model.safetensors.index.json")
    whole = directory / "model.safetensors"
    if found == whole or not whole.exists():
        return found
    placed = read_object(found).get("weight_map")
    if not isinstance(placed, dict) or set(placed.values()) != {whole.name}:
        warnings.warn(
            f"{directory}: holds {whole.name} and {found.name} of other shards; {whole.name} is read, as transformers "
            "does; remove the one that does not belong to the model",
            TilepressWarning,
            stacklevel=3,
        )
    return whole


class FloatCheckpoint:
    """config.json with model.safetensors, or its shards and index. Tensors are read when asked for.

    Tensors have the names that transformers gives them: a prefix "model." is added where the files lack it. Head and
    embedding are one table where the config ties them and their values are equal. Raises CheckpointError where
    transformers would initialize a missing tensor at random or leave out a part of the decoder. It raises it too for a
    tensor of another shape or not of floats, and for a model that is quantized already. A TilepressWarning names a
    stored tensor that is not read.

    config: of the architecture that is read. stored_config: as config.json has it; it differs for Phi-3, which is read
    as the Mistral that computes the same.
    """

    kind: Literal["float"] = "float"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        stored = read_object(config)
        fields, fused = without_fused_linears(stored, config)
        self.config = completed(fields, path)
        self.stored_config = stored if fused else self.config
        self.architecture = architecture_of(self.config, config)
        if self.config.get("quantization_config"):
            method = self.config["quantization_config"]
            method = method.get("quant_method") if isinstance(method, dict) else method
            raise CheckpointError(
                f"{config}: quantization_config says {method!r}, the weights are quantized already; "
                "start from the float model"
            )
        self._files = TensorFiles(float_weights(path))
        shape = ModelShape.from_config(self.config, config)
        if fused:
            self._split(shape)
        self._stored_names = self._by_model_name(float_tensors(self.architecture, replace(shape, tied=False)))
        # A stored head that differs from the embedding is a head of its own, though the config calls it tied.
        self.shape = replace(shape, tied=shape.tied and self._has_one_table(shape))
        expected = float_tensors(self.architecture, self.shape)
        for name, size in expected.items():
            if name not in self._stored_names:
                raise self._missing(name)
            self._files.expect(self._stored_names[name], size, (*FLOAT_DTYPES, torch.float64))
        self._check_surplus(expected)
        self._names = list(expected)

    def _split(self, shape: ModelShape) -> None:
        """Cut fused linears."""
        for stored in list(self._files):
            for fused, members in FUSED.items():
                if stored.endswith(f".{fused}.weight"):
                    prefix = stored.removesuffix(f"{fused}.weight")
                    rows = {f"{prefix}{member}.weight": shape.linear(member)[0] for member in members}
                    self._files.split(stored, rows)

    def _by_model_name(self, names: Mapping[str, object]) -> dict[str, str]:
        """Return name in the model -> name in the files; "model." is added or taken off, as transformers does it."""
        found = {name: name for name in self._files}
        for stored in self._files:
            with_prefix, without = f"{_PREFIX}{stored}", stored.removeprefix(_PREFIX)
            name = with_prefix if with_prefix in names else without
            if stored not in names and name in names:
                if name in self._files:
                    raise CheckpointError(
                        f"{self._files.stored(stored).file}: holds {stored}, and {name} is there too; "
                        "get the checkpoint again"
                    )
                del found[stored]
                found[name] = stored
        return found

    def _has_one_table(self, shape: ModelShape) -> bool:
        """Return True if a model that its config ties has one table: only one is stored, or two that are equal."""
        head, table = (self._stored_names.get(name) for name in (_HEAD, _TABLE))
        if head is None:
            return True
        if table is None:
            self._stored_names[_TABLE] = self._stored_names.pop(_HEAD)
            return True
        if self._files.stored(head).shape != self._files.stored(table).shape:
            return False
        for start in range(0, shape.vocab, _ROWS):
            one, other = (self._files.read(name, start, start + _ROWS) for name in (head, table))
            if one.dtype != other.dtype or not torch.equal(one, other):
                return False
        return True

    def _missing(self, name: str) -> CheckpointError:
        remedy = "get the checkpoint again"
        if name == _HEAD:
            remedy = 'set "tie_word_embeddings": true in config.json if its head is the embedding, or ' + remedy
        return CheckpointError(f"{self._files.path}: tensor {name} is missing; {remedy}")

    def _check_surplus(self, expected: Mapping[str, object]) -> None:
        """Raise for surplus tensors of the decoder, and warn of others: transformers leaves all of them out."""
        surplus = [name for name in self._stored_names if name not in expected]
        modules = {name.rpartition(".")[0] for name in expected} | {_LAYERS.rpartition(".")[0]}
        # Older Llama checkpoints store the rotary frequencies, which follow from the config.
        ignored = [name for name in surplus if not name.endswith(_IGNORED) and name != _HEAD]
        for name in ignored:
            if name.startswith(_LAYERS) or name.rpartition(".")[0] in modules:
                raise CheckpointError(
                    f"{self._files.stored(self._stored_names[name]).file}: {name} is not a tensor of "
                    f"{self.architecture.name} as {self.path / 'config.json'} describes it; check that config and "
                    "weights belong together"
                )
        if ignored:
            warnings.warn(
                f"{self._files.path}: {len(ignored)} tensors are not read, such as {ignored[0]}: "
                f"{self.architecture.name} has no place for them",
                TilepressWarning,
                stacklevel=3,
            )

    def names(self) -> list[str]:
        """Names of all tensors, embedding first, in the order of the architecture."""
        return list(self._names)

    def has(self, name: str) -> bool:
        return name in self._names

    def tensor(self, name: str) -> Tensor:
        """The tensor in its stored dtype, mapped from the file; not to be written to."""
        if not self.has(name):
            raise self._missing(name)
        return self._files.tensor(self._stored_names[name])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) of the tensor in its stored dtype, in memory of their own."""
        if not self.has(name):
            raise self._missing(name)
        return self._files.read(self._stored_names[name], start, stop)

    def stored(self, name: str) -> Stored:
        """Dtype, shape and file of the tensor."""
        if not self.has(name):
            raise self._missing(name)
        return self._files.stored(self._stored_names[name])

    def inventory(self) -> list[tuple[str, Stored]]:
        """Type (FLOAT) and header of each tensor."""
        return [(FLOAT, self.stored(name)) for name in self._names]

    def files(self) -> list[Path]:
        """The weight files."""
        return self._files.files()

    def release(self) -> None:
        """Give back the memory of the pages that were read of the weight files: see `release_pages`."""
        self._files.release()

    def auxiliary_files(self) -> list[Path]:
        return auxiliary_files(self.path)
