"""Finished stages of a quantization on disk, from which the same command resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

import tilepress
from tilepress.checkpoint import FloatCheckpoint
from tilepress.checkpoint.safetensors.reader import TensorFiles
from tilepress.checkpoint.safetensors.writer import stream_tensor
from tilepress.errors import CheckpointError, QuantizationError, TilepressError, UsageError
from tilepress.jobs.atomic_directory import discard, kept_in, save_tensors, sync, writing
from tilepress.jobs.fingerprint import describe_file, differences
from tilepress.jobs.json_files import read_object, write_object
from tilepress.jobs.lock import locked
from tilepress.quantize.recipe.recipe import Recipe

FINGERPRINT = "fingerprint"
LOCK = "lock"
_PARTIAL = ".partial"


def work_directory(out: Path, rank: int = 0) -> Path:
    """The directory for unfinished work on `out`; each rank has its own, and the first rank's has the results."""
    return out.absolute().parent / f".{out.name}.quant{f'-rank{rank}' if rank else ''}"


class WorkDirectory:
    """The finished stages. A context manager: the directory is removed when the block ends without an exception.

    A stage is a JSON record; its tensors are in safetensors files. Each file is written under another name, synced and
    renamed, and the record of a stage comes last: a stage is either done or not, whenever the process ends. After an
    exception finished stages are kept, and a TilepressError says where; without any the directory is removed.

    fingerprint: everything that the results depend on. restart: begin anew. kept: False removes the directory in any
    case. Raises UsageError where the directory was begun with another fingerprint, CheckpointError where another
    process holds it or it cannot be made.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], *, restart: bool = False, kept: bool = True) -> None:
        self.path = path
        self._kept = kept
        self._fingerprint = dict(fingerprint)
        self._restart = restart
        self._lock = ExitStack()

    def __enter__(self) -> WorkDirectory:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be made ({error.strerror}); choose another directory to make"
            ) from None
        with ExitStack() as lock:
            lock.enter_context(locked(self.path / LOCK))
            self._open()
            self._lock = lock.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or not self._kept or not has_stages(self.path):
            _remove(self.path)
        elif isinstance(error, QuantizationError):  # the same model and options would fail again
            error.args = (f"{error}; what is finished before it is in {self.path}: other options need --restart",)
        elif isinstance(error, TilepressError):
            error.args = (f"{error}; {kept_in(self.path)}",)
        self._lock.close()

    def require(self, nbytes: int) -> None:
        """Raises CheckpointError where the disk has no room for a directory of `nbytes` bytes."""
        there = sum(file.stat().st_size for file in self.path.iterdir())
        free = shutil.disk_usage(self.path).free
        if nbytes > there + free:
            raise CheckpointError(
                f"{self.path}: {nbytes / 1e9:.1f} GB needed for the work directory and {free / 1e9:.1f} GB free; free "
                "some space, write to another disk, or ask for fewer --samples"
            )

    def record(self, stage: str) -> dict[str, Any] | None:
        """Return the record given to `commit`; None where the stage is not done."""
        file = _record_file(self.path, stage)
        return read_object(file) if file.exists() else None

    def commit(self, stage: str, record: Mapping[str, Any]) -> None:
        """Mark a stage as done, after its tensors were saved. Raises CheckpointError where the disk is full."""
        partial = self.path / f"{stage}.json{_PARTIAL}"
        with writing(partial, 1 << 20):
            write_object(partial, dict(record))
        self._place(partial, f"{stage}.json")

    def file(self, name: str) -> Path:
        """The safetensors file of this name."""
        return self.path / f"{name}.safetensors"

    def tensors(self, name: str) -> TensorFiles:
        """The tensors in the safetensors file of this name."""
        return TensorFiles(self.file(name))

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write or replace the file of this name. Raises CheckpointError where the disk is full."""
        partial = self.path / f"{name}{_PARTIAL}"
        save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        self._place(partial, self.file(name).name)

    def stream(self, name: str, shape: Sequence[int], parts: Iterable[Tensor]) -> None:
        """Like `save`, for the single float32 tensor `name`, whose rows come in `parts`."""
        partial = self.path / f"{name}{_PARTIAL}"
        stream_tensor(partial, name, shape, torch.float32, parts)
        self._place(partial, self.file(name).name)

    def drop(self, name: str) -> None:
        """Remove the file of this name, if it exists, once no stage needs it."""
        self.file(name).unlink(missing_ok=True)

    def _open(self) -> None:
        if self._restart:
            _record_file(self.path, FINGERPRINT).unlink(missing_ok=True)
        for partial in self.path.glob(f"*{_PARTIAL}"):
            partial.unlink()
        begun = self.record(FINGERPRINT)
        if begun is None:
            for file in self.path.iterdir():
                if file.name != LOCK:
                    file.unlink()
            self.commit(FINGERPRINT, self._fingerprint)
        elif changed := differences(begun, self._fingerprint):
            raise UsageError(
                f"{self.path}: holds work that was begun with other inputs: {'; '.join(changed)}. Use the same "
                "inputs, or begin anew with --restart"
            )

    def _place(self, partial: Path, name: str) -> None:
        sync(partial)
        partial.rename(self.path / name)
        sync(self.path)


def is_begun(out: Path) -> bool:
    """Return whether an unfinished quantization has left finished stages."""
    return has_stages(work_directory(out))


def has_stages(path: Path) -> bool:
    """Return whether any stage is done in a work directory."""
    begun = _record_file(path, FINGERPRINT)
    return begun.exists() and any(file != begun for file in path.glob("*.json"))


def kept_progress(out: Path) -> str | None:
    """Return a sentence on the finished stages that an interrupted quantization of `out` has left; None without any."""
    path = work_directory(out)
    return kept_in(path) if has_stages(path) else None


def remove_finished(out: Path, rank: int = 0) -> None:
    """Remove the work directory of a finished `out`, where a process ended before it could do so itself."""
    path = work_directory(out, rank)
    begun, finished = (_record_file(path, stage).exists() for stage in (FINGERPRINT, FINISHED))
    if out.exists() and path.exists() and (finished or not begun):
        _remove(path)


def _record_file(path: Path, stage: str) -> Path:
    return path / f"{stage}.json"


def _remove(path: Path) -> None:
    """Remove a work directory. The fingerprint goes first: what is left without it, after a kill, counts as nothing."""
    _record_file(path, FINGERPRINT).unlink(missing_ok=True)
    discard(path)


# The stage after which the output is put in place.
FINISHED = "finished"


def fingerprint(source: FloatCheckpoint, recipe: Recipe, text: bytes, settled: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the results depend on, as values for JSON by name.

    text: the calibration's tokens, or the prompts from which the model writes them. settled: the choices that the
    recipe leaves open.
    """
    return {
        "tilepress": tilepress.__version__,
        "recipe": asdict(recipe) | {"float_linears": list(recipe.float_linears)},
        "settled": dict(settled),
        "calibration text": hashlib.sha256(text).hexdigest(),
        "source": {
            "config.json": hashlib.sha256(json.dumps(source.config, sort_keys=True).encode()).hexdigest(),
            **{file.name: describe_file(file) for file in source.files()},
        },
    }
