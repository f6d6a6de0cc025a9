"""Tensors of one directory, in one safetensors file or in shards with an index: lazy, mapped or read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tilepress.checkpoint.safetensors.mapped_pages import release_pages
from tilepress.errors import CheckpointError
from tilepress.jobs.json_files import read_object, refuse_pointer

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor's entry in the header of a file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The tensors of `weights`, a .safetensors file or the .index.json of its shards.

    Opening reads headers only. The shards count, not the index, as in transformers: an index may name tensors that no
    shard holds, such as the head of a tied model. Raises CheckpointError for a file that is missing, truncated or no
    safetensors file, and for a tensor that two shards hold.
    """

    def __init__(self, weights: Path) -> None:
        self.path = weights
        self._handles: dict[Path, Any] = {}
        self._stored: dict[str, Stored] = {}
        self._offsets: dict[Path, dict[str, int]] = {}
        self._parts: dict[str, tuple[str, int]] = {}  # the stored tensor whose rows it is, and the first of them
        placed = _weight_map(weights) if weights.suffix == ".json" else None
        shards = sorted({weights.parent / shard for shard in placed.values()}) if placed is not None else [weights]
        for file in shards:
            handle = _open(file)
            self._handles[file] = handle
            for name in handle.keys():  # noqa: SIM118 (a handle is not iterable)
                if name in self._stored:
                    raise CheckpointError(
                        f"{file}: holds {name}, which {self._stored[name].file.name} holds too; "
                        "get the checkpoint again"
                    )
                self._stored[name] = _stored(file, handle, name)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def split(self, name: str, parts: Mapping[str, int]) -> None:
        """Give the rows of a tensor names of their own, so many each, in place of `name`.

        Raises CheckpointError where they are not all rows, or a part has the name of another tensor.
        """
        whole = self.stored(name)
        if not whole.shape or whole.shape[0] != sum(parts.values()):
            raise CheckpointError(
                f"{whole.file}: {name} is {dtype_name(whole.dtype)} {list(whole.shape)}; config.json calls for "
                f"{sum(parts.values())} rows, those of {', '.join(parts)}"
            )
        del self._stored[name]
        first = 0
        for part, rows in parts.items():
            if part in self._stored:
                raise CheckpointError(f"{whole.file}: holds {name}, and {part} is there too; get the checkpoint again")
            self._stored[part] = Stored(whole.file, whole.dtype, (rows, *whole.shape[1:]))
            self._parts[part] = (name, first)
            first += rows

    def files(self) -> list[Path]:
        return list(self._handles)

    def stored(self, name: str) -> Stored:
        """Dtype, shape and file, without touching the data. Raises CheckpointError where there is no such tensor."""
        if name not in self._stored:
            raise CheckpointError(f"{self.path}: tensor {name} is missing; get the checkpoint again")
        return self._stored[name]

    def tensor(self, name: str) -> Tensor:
        """The tensor, as a view of the mapped file: data is read when touched. Do not write to it."""
        stored = self.stored(name)
        whole, first = self._parts.get(name, (name, 0))
        tensor: Tensor = self._handles[stored.file].get_tensor(whole)
        return tensor[first : first + stored.shape[0]] if name in self._parts else tensor

    def release(self) -> None:
        """Give back the memory of the pages that were read of the files: see `release_pages`."""
        release_pages(self._handles)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) in memory of their own, which goes with the tensor.

        The pages of a mapped file count as the process's until the system wants them back: a model that is read once
        from end to end would seem to be all in memory. Raises CheckpointError where the file has become shorter.
        """
        stored = self.stored(name)
        if stored.file not in self._offsets:
            self._offsets[stored.file] = data_offsets(stored.file)
        # Not safe_open(backend="pread"): a slice of one row of SmolLM2's embedding (57 MB) takes it 47 ms, so that the
        # embedding of a text takes minutes; this reads the row alone.
        count, *columns = stored.shape or (1,)
        rows = range(count)[start:stop]
        tensor = torch.empty(len(rows), *columns, dtype=stored.dtype)
        room = tensor.view(-1).view(torch.uint8).numpy().data
        with stored.file.open("rb", buffering=0) as opened:
            whole, first = self._parts.get(name, (name, 0))
            opened.seek(self._offsets[stored.file][whole] + (first + rows.start) * (stored.nbytes // max(1, count)))
            while room:
                taken = opened.readinto(room)
                if not taken:
                    raise CheckpointError(f"{stored.file}: ends inside of {name}; get the checkpoint again")
                room = room[taken:]
        return tensor if stored.shape else tensor[0]

    def expect(self, name: str, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
        """Raise CheckpointError where the tensor is missing or has another shape or dtype."""
        stored = self.stored(name)
        if stored.shape != shape or stored.dtype not in dtypes:
            raise CheckpointError(
                f"{stored.file}: {name} is {dtype_name(stored.dtype)} {list(stored.shape)}; config.json calls for "
                f"{' or '.join(dtype_name(dtype) for dtype in dtypes)} {list(shape)}"
            )


def find_weights(directory: Path, stem: str | None = None) -> Path | None:
    """Return the directory's index of shards or its one safetensors file; None where it has none.

    stem: consider only `<stem>.safetensors` and its index. Raises CheckpointError where several files fit.
    """
    pattern = "*" if stem is None else stem
    for suffix in (".safetensors.index.json", ".safetensors"):
        found = sorted(directory.glob(pattern + suffix))
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:4])
            raise CheckpointError(
                f"{directory}: holds {len(found)} files *{suffix} ({names}) and no single index; "
                "remove those that do not belong, or get the index again"
            )
        if found:
            return found[0]
    return None


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _weight_map(index: Path) -> dict[str, str]:
    placed = read_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index}: weight_map is missing or empty; get the index again")
    for name, shard in placed.items():
        # A shard lies beside its index: a path would make us read files that are not the checkpoint's.
        plain = isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard
        if not plain or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: {name} is in shard {shard!r}; it has to be the plain name of a .safetensors file "
                "beside the index"
            )
    return placed


def _open(file: Path) -> Any:
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; get the checkpoint again")
    try:
        try:
            return safe_open(file, framework="pt")
        except RuntimeError:  # torch maps a file as its own memory, and Linux grants no more than the machine has
            return safe_open(file, framework="pt", backend="pread")
    except (SafetensorError, OSError) as error:
        refuse_pointer(file)
        raise CheckpointError(f"{file}: not a whole safetensors file ({error}); get it again") from None


def _stored(file: Path, handle: Any, name: str) -> Stored:
    view = handle.get_slice(name)
    kind = view.get_dtype()
    if kind not in DTYPES:
        raise CheckpointError(f"{file}: {name} has dtype {kind}, which tilepress does not read")
    return Stored(file, DTYPES[kind], tuple(view.get_shape()))


def data_offsets(file: Path) -> dict[str, int]:
    """Return tensor name -> offset in the file in bytes, for a file that safetensors has opened without complaint.

    The format: eight bytes of little-endian length, a JSON header of this length, then the data.
    """
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
