"""Writing a W8A8S directory tensor by tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from tilepress.checkpoint.auxiliary import auxiliary_files, copy_auxiliary_files
from tilepress.checkpoint.description import ACTIVATIONS, FLOAT, STATIC, W8A8S, write_description
from tilepress.checkpoint.safetensors.reader import TensorFiles
from tilepress.checkpoint.safetensors.writer import name_shards, stream_tensor
from tilepress.checkpoint.summary import REPORT
from tilepress.checkpoint.targets import TILEPRESS, Target, refusals
from tilepress.checkpoint.tensors.embedding import EMBEDDING, QuantizedEmbedding
from tilepress.checkpoint.tensors.quantized_linear import PARAMETERS, QuantizedLinear, pack, unpack
from tilepress.checkpoint.tensors.stored_float import stored_float
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint, folded_bias
from tilepress.errors import CheckpointError, TilepressWarning
from tilepress.jobs.atomic_directory import (
    create_staging,
    discard,
    link_or_copy,
    publish,
    refuse_existing,
    save_tensors,
    writing,
)
from tilepress.jobs.json_files import write_object

WEIGHTS = "quant_model_weight_w8a8s"

# Tensors or files larger than a shard / LINKED_SHARE become shards of their own; smaller ones are put together.
LINKED_SHARE = 8


class Source(Protocol):
    """The checkpoint, of any kind, that the config and the auxiliary files come from."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> dict[str, Any]: ...


class W8A8SWriter:
    """A context manager under which a W8A8S directory is written; `out` appears when it ends without an exception.

    dtype: "float16" or "bfloat16", the flavour. max_shard_bytes: tensors held in memory before a shard is written.
    description: global keys for the description. target: whose form the directory has; for one that is not tilepress's
    own, linears have to be made for "static". Raises CheckpointError at once where `out` exists, and at the end where
    the result is not a whole checkpoint, or not one that the target's engines take.

    Tensors are kept, not copied, until their shard is written: do not change them meanwhile.

    flushed: name -> count of the values that became zero in dtype, so far.
    """

    def __init__(
        self,
        out: Path,
        source: Source,
        *,
        dtype: str,
        max_shard_bytes: int = 512 << 20,
        description: Mapping[str, Any] | None = None,
        target: Target = TILEPRESS,
    ) -> None:
        if dtype not in ("float16", "bfloat16"):
            raise CheckpointError(f"{out}: dtype is {dtype!r}; a W8A8S directory is float16 or bfloat16")
        refuse_existing(out)
        self.flushed: dict[str, int] = {}
        self._out, self._source, self._dtype = out, source, dtype
        self._max_shard_bytes = max_shard_bytes
        self._extra = dict(description or {})
        self._target = target
        self._types: dict[str, str] = {}
        self._shards: list[list[str]] = []
        self._nbytes = 0
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._staging: Path | None = None
        self._report: dict[str, Any] | None = None

    def __enter__(self) -> W8A8SWriter:
        self._staging = create_staging(self._out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        staging = self._directory()
        try:
            if kind is None:
                self._finish(staging)
        except BaseException:
            discard(staging)
            raise
        if kind is not None:
            discard(staging)

    def has(self, name: str) -> bool:
        """Return True if a tensor of this name was added."""
        return name in self._types

    def add_float(self, name: str, tensor: Tensor) -> None:
        """Store a float tensor, converted to the flavour's dtype.

        Raises CheckpointError for a value that is not finite or that dtype cannot hold; values that become zero are
        counted in `flushed` and warned of at the end.
        """
        converted, flushed = stored_float(name, tensor, self._dtype, self._source.path)
        self.count_flushed(name, flushed)
        self._add(name, converted, FLOAT)

    def add_float_rows(self, name: str, shape: Sequence[int], parts: Iterable[Tensor]) -> None:
        """Store a float tensor whose rows are those of `parts` in their order; a large one is streamed to a shard.

        Errors as of `add_float`.
        """
        stored: torch.dtype = getattr(torch, self._dtype)
        converted = self._converted(name, parts)
        if torch.Size(shape).numel() * stored.itemsize <= self._max_shard_bytes // LINKED_SHARE:
            self._add(name, torch.cat(list(converted)), FLOAT)
            return
        self._register(name, FLOAT)
        stream_tensor(self._next_shard(), name, shape, stored, converted)
        self._close_shard([name], torch.Size(shape).numel() * stored.itemsize)

    def add_linear(self, prefix: str, linear: QuantizedLinear) -> None:
        """Store the five tensors of a quantized linear. Raises CheckpointError for an unrounded input_scale."""
        self.add_stored(pack(prefix, linear, self._dtype), linear.kind)

    def add_embedding(self, embedding: QuantizedEmbedding) -> None:
        """Store the two tensors of a quantized embedding."""
        self.add_stored(embedding.tensors(), W8A8S)

    def add_report(self, report: Mapping[str, Any]) -> None:
        """Store how the directory was made, for information, as `quantization_report.json`."""
        self._report = dict(report)

    def add_stored(self, tensors: Mapping[str, Tensor], kind: str) -> None:
        """Store tensors of another checkpoint as they are; kind: their type, any but W8A8SC."""
        for name, tensor in tensors.items():
            self._add(name, tensor.detach().cpu(), kind)

    def add_file(self, file: Path, types: Mapping[str, str], flushed: Mapping[str, int]) -> None:
        """Store the tensors of a safetensors file as they are. types: by name; flushed: the counts of this file.

        A large file becomes a shard, by a hard link where the file system has them; small ones are put together.
        """
        for name, count in flushed.items():
            self.count_flushed(name, count)
        tensors = TensorFiles(file)
        nbytes = sum(tensors.stored(name).nbytes for name in tensors)
        if nbytes <= self._max_shard_bytes // LINKED_SHARE:
            for name in tensors:
                self._add(name, tensors.read(name), types[name])
            return
        for name in tensors:
            self._register(name, types[name])
        with writing(self._directory(), nbytes):
            link_or_copy(file, self._next_shard())
        self._close_shard(list(tensors), nbytes)

    def _converted(self, name: str, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        for part in parts:
            converted, flushed = stored_float(name, part, self._dtype, self._source.path)
            self.count_flushed(name, flushed)
            yield converted

    def count_flushed(self, name: str, count: int) -> None:
        """Count values of a tensor that became zero before it was added."""
        if count:
            self.flushed[name] = self.flushed.get(name, 0) + count

    def _register(self, name: str, kind: str) -> None:
        if name in self._types:
            raise CheckpointError(f"{self._out}: tensor {name} was added twice")
        self._types[name] = kind

    def _add(self, name: str, tensor: Tensor, kind: str) -> None:
        self._register(name, kind)
        if self._pending and self._pending_bytes + tensor.nbytes > self._max_shard_bytes:
            self._write_shard()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += tensor.nbytes

    def _write_shard(self) -> None:
        save_tensors(self._pending, self._next_shard())
        self._close_shard(list(self._pending), self._pending_bytes)
        self._pending, self._pending_bytes = {}, 0

    def _next_shard(self) -> Path:
        return self._directory() / f"{len(self._shards)}.shard"

    def _close_shard(self, names: list[str], nbytes: int) -> None:
        self._shards.append(names)
        self._nbytes += nbytes

    def _finish(self, staging: Path) -> None:
        for prefix in self._target.biases(self._source.config, self._types, self._source.path):
            name = f"{prefix}.bias"
            bias, _ = stored_float(name, folded_bias(self._added_linear(prefix)), self._dtype, self._source.path)
            self._add(name, bias, FLOAT)
        if self._pending or not self._shards:
            self._write_shard()
        with writing(staging, sum(file.stat().st_size for file in auxiliary_files(self._source.path))):
            name_shards(staging, self._shards, WEIGHTS, self._nbytes)
            types, extra = self._target.description(self._types, self._extra)
            write_description(staging, self._target.kind, types, extra)
            mode = str(self._extra.get(ACTIVATIONS, STATIC))
            config = self._target.config(self._source.config, tied=self._tied(), mode=mode, dtype=self._dtype)
            write_object(staging / "config.json", config)
            copy_auxiliary_files(self._source.path, staging)
            if self._report is not None:
                write_object(staging / REPORT, self._report)
        try:
            W8A8SCheckpoint(staging)
        except CheckpointError as error:
            raise CheckpointError(f"{self._out}: what was written is not a whole checkpoint: {error}") from None
        if not self._target.own and (refused := refusals(staging, self._target)):
            raise CheckpointError(f"{self._out}: {self._target.engines} would not take it: {refused[0]}")
        publish(staging, self._out)
        if (remark := self._target.remark(self._source.config, self._source.path)) is not None:
            warnings.warn(f"{self._out}: {remark}", TilepressWarning, stacklevel=3)
        if self.flushed:
            most = max(self.flushed, key=lambda name: self.flushed[name])
            warnings.warn(
                f"{self._out}: {sum(self.flushed.values())} values of {len(self.flushed)} tensors became 0 in "
                f"{self._dtype}, most in {most} ({self.flushed[most]}); --dtype bfloat16 keeps them",
                TilepressWarning,
                stacklevel=3,
            )

    def _added_linear(self, prefix: str) -> QuantizedLinear:
        """Return a linear that waits for its shard or is in one."""
        stored = {name: self._pending[f"{prefix}.{name}"] for name in PARAMETERS if f"{prefix}.{name}" in self._pending}
        for number, names in enumerate(self._shards):
            mine = [name for name in PARAMETERS if f"{prefix}.{name}" in names]
            if mine:
                tensors = TensorFiles(self._directory() / f"{number}.shard")
                stored |= {name: tensors.read(f"{prefix}.{name}") for name in mine}
        return unpack(prefix, stored)

    def _tied(self) -> bool:
        """Return True if one table is head and embedding: a float embedding, or the quantized head of a tied source."""
        tied = bool(self._source.config.get("tie_word_embeddings", False))
        return "lm_head.weight" not in self._types or (tied and f"{EMBEDDING}.weight" not in self._types)

    def _directory(self) -> Path:
        if self._staging is None:
            raise RuntimeError("W8A8SWriter is a context manager: add tensors inside its with block")
        return self._staging
