"""A safetensors file that is written tensor after tensor, with one of them in memory at a time.

The format (https://github.com/huggingface/safetensors#format) begins with a header that says where every tensor lies,
and may be padded with spaces. The header is written last, into room for the longest one that the tensors can have. Data
may have no holes, so only tensors of whole cache lines are appended to the file at once. The others, small ones, wait
in a second file and follow at the end, widest type first. So every tensor is aligned for its type, and one of whole
lines begins at a line.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from tilepress.checkpoint.safetensors.reader import DTYPES
from tilepress.errors import CheckpointError
from tilepress.jobs.atomic_directory import writing
from tilepress.jobs.json_files import write_object

LINE = 64
# The most that a tensor takes in the header beside its name: two sizes of 8 digits, two offsets of 15.
HEADER_ENTRY = 100
_CHUNK = 1 << 24
_METADATA = {"format": "pt"}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class Written(NamedTuple):
    """A tensor's entry in the header, without its offsets. dtype: in the format's spelling, such as "BF16"."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.itemsize

    @property
    def waits(self) -> bool:
        """True for a small tensor, which follows at the end."""
        return self.nbytes % LINE != 0


class StreamingFile:
    """A context manager under which `file` is written; only `finish` makes a safetensors file of it.

    waiting: the file in which small tensors wait; not part of the result. names: those of all tensors that may be
    added. written: the tensors that are in the two files already, in the order in which they were added; bytes behind
    them are cut off. Raises CheckpointError where the files are too short for these.
    """

    def __init__(self, file: Path, waiting: Path, names: Iterable[str], written: Iterable[Written] = ()) -> None:
        room = sum(len(json.dumps(name)) + HEADER_ENTRY for name in names) + len(
            json.dumps({"__metadata__": _METADATA})
        )
        self._begin = -(-(8 + room) // LINE) * LINE
        self._written = list(written)
        self.unsynced = 0
        self._lost: OSError | None = None
        for path, end in ((file, self._end()), (waiting, self._waiting_end())):
            path.touch()
            if self._written and path.stat().st_size < end:
                raise CheckpointError(f"{path}: is shorter than the {end} bytes written; start over with --restart")
        self._file, self._waiting = file.open("r+b", buffering=0), waiting.open("r+b", buffering=0)
        self.cut(len(self._written))

    def __enter__(self) -> StreamingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors written."""
        return sum(tensor.nbytes for tensor in self._written)

    def add(self, name: str, tensor: Tensor) -> Written:
        """Write `tensor`, of any type of DTYPES, at least one dimension and on the CPU."""
        written = Written(name, _CODES[tensor.dtype], tuple(tensor.shape))
        data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
        write_whole(self._waiting if written.waits else self._file, data)
        self._written.append(written)
        self.unsynced += written.nbytes
        return written

    def cut(self, count: int) -> None:
        """Cut off all tensors but the first `count`, a partly written one included."""
        del self._written[count:]
        for file, end in ((self._file, self._end()), (self._waiting, self._waiting_end())):
            file.truncate(end)
            file.seek(end)

    def sync(self) -> None:
        """Return when everything written so far is on disk.

        After one failure all later calls fail: the system drops what it could not write, so that the next call would
        seem to succeed.
        """
        if self._lost is not None:
            raise self._lost
        try:
            for file in (self._file, self._waiting):
                os.fsync(file.fileno())
        except OSError as error:
            self._lost = error
            raise
        self.unsynced = 0

    def finish(self) -> None:
        """Append the tensors that wait, and write the header; the file is then whole and on disk.

        May be called again if nothing is added in between.
        """
        waiting = sorted((tensor for tensor in self._written if tensor.waits), key=lambda tensor: -tensor.itemsize)
        text = _header([*(tensor for tensor in self._written if not tensor.waits), *waiting])
        room = self._begin - 8
        if len(text) > room:
            raise ValueError(f"the header has {len(text)} bytes, of {room} that were left for it")
        self.cut(len(self._written))
        starts = self._waiting_starts()
        for tensor in waiting:
            _copy(self._waiting, starts[tensor.name], tensor.nbytes, self._file)
        self._file.seek(0)
        write_whole(self._file, memoryview(room.to_bytes(8, "little") + text.ljust(room)))
        self.sync()

    def close(self) -> None:
        self._file.close()
        self._waiting.close()

    def _end(self) -> int:
        return self._begin + sum(tensor.nbytes for tensor in self._written if not tensor.waits)

    def _waiting_end(self) -> int:
        return sum(tensor.nbytes for tensor in self._written if tensor.waits)

    def _waiting_starts(self) -> dict[str, int]:
        starts, at = {}, 0
        for tensor in self._written:
            if tensor.waits:
                starts[tensor.name] = at
                at += tensor.nbytes
        return starts


def _header(placed: list[Written]) -> bytes:
    """Return the header of tensors that follow one another."""
    header: dict[str, object] = {"__metadata__": _METADATA}
    at = 0
    for tensor in placed:
        end = at + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    return json.dumps(header, separators=(",", ":")).encode()


def write_whole(file: FileIO, data: memoryview) -> None:
    """Write all of `data`, which the system may take in pieces."""
    while data:
        data = data[file.write(data) :]


def _copy(source: FileIO, start: int, length: int, target: FileIO) -> None:
    while length and (data := os.pread(source.fileno(), min(length, _CHUNK), start)):
        write_whole(target, memoryview(data))
        start, length = start + len(data), length - len(data)


ALIGNMENT = 8


def stream_tensor(file: Path, name: str, shape: Sequence[int], dtype: torch.dtype, parts: Iterable[Tensor]) -> None:
    """Write `file` with one tensor, `name`: the rows of `parts` in their order, of `dtype` and on the CPU.

    Raises CheckpointError where the disk is full.
    """
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    entry = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [0, nbytes]}
    header = json.dumps({"__metadata__": _METADATA, name: entry}).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with writing(file, nbytes), file.open("wb", buffering=0) as opened:
        write_whole(opened, memoryview(struct.pack("<Q", len(header)) + header))
        for part in parts:
            write_whole(opened, part.contiguous().view(torch.uint8).numpy().reshape(-1).data)


def name_shards(directory: Path, shards: Sequence[Sequence[str]], stem: str, nbytes: int) -> None:
    """Give 0.shard, 1.shard, … in `directory` the names that transformers gives shards, and write their index.

    shards: the names of each file's tensors. stem: such as "model". nbytes: of all tensors. One file has no index.
    """
    count = len(shards)
    if count == 1:
        (directory / "0.shard").rename(directory / f"{stem}.safetensors")
        return
    placed: dict[str, str] = {}
    for shard, names in enumerate(shards):
        file = f"{stem}-{shard + 1:05}-of-{count:05}.safetensors"
        (directory / f"{shard}.shard").rename(directory / file)
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": nbytes}, "weight_map": placed}
    write_object(directory / f"{stem}.safetensors.index.json", index)
