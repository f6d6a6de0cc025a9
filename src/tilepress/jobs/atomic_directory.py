"""Output directories that appear whole or not at all.

Everything is written into a hidden directory beside the target, synced to disk and renamed in one step.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tilepress.errors import CheckpointError

# File systems take 255 bytes, and the hidden directory beside `out` has a longer name.
LONGEST_NAME = 200
_FULL = (errno.ENOSPC, errno.EDQUOT)


def refuse_existing(out: Path) -> None:
    """Raise CheckpointError where something exists at `out`, or where its name does not suit a directory."""
    if not 0 < len(os.fsencode(out.name)) <= LONGEST_NAME:
        raise CheckpointError(f"{out}: give the name of a directory to make, of at most {LONGEST_NAME} bytes")
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out}: exists already; remove it or choose another name")


def create_staging(out: Path) -> Path:
    """Make and return an empty directory beside `out`. Raises CheckpointError where `out` exists or cannot be made."""
    refuse_existing(out)
    staging = out.absolute().parent / f".{out.name}.partial-{secrets.token_hex(4)}"
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be made ({error.strerror}); choose another directory") from None
    return staging


def publish(staging: Path, out: Path) -> None:
    """Sync `staging` to disk and rename it to `out`. Raises CheckpointError where `out` exists by now."""
    mode = staging.stat().st_mode & 0o666
    for folder, _, names in os.walk(staging, topdown=False):
        for name in names:
            file = Path(folder, name)
            file.chmod(mode)  # safetensors files are made for their owner alone
            sync(file)
        sync(Path(folder))
    refuse_existing(out)
    try:
        staging.rename(out)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be put in place ({error.strerror})") from None
    sync(out.absolute().parent)


def discard(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def writing(path: Path, nbytes: int | Callable[[], int]) -> Iterator[None]:
    """Context for writing `nbytes` at `path`: a full disk becomes a CheckpointError that says how much is needed.

    nbytes: a number, or a function that is called only then.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _disk_full(error):
            raise
        folder = path if path.is_dir() else path.parent
        needed = nbytes if isinstance(nbytes, int) else nbytes()
        free = decimal(shutil.disk_usage(folder).free, precision=2)
        raise CheckpointError(
            f"{path}: disk full, {decimal(needed, precision=2)} needed and {free} free; "
            "free some space or write to another disk"
        ) from None


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write one safetensors file. Raises CheckpointError where the disk is full."""
    with writing(file, sum(tensor.nbytes for tensor in tensors.values())):
        save_file(tensors, file, metadata={"format": "pt"})


def link_or_copy(file: Path, to: Path) -> None:
    """Make `to` a hard link to `file`, or a copy where the disk has no links. Neither may be changed later."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {code})" in str(error) for code in _FULL)  # how safetensors words it


def sync(path: Path) -> None:
    """Return when the file, or the list of names in the directory, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kept_in(path: Path) -> str:
    """Return the sentence for the user about a job that was cut short and left something in `path`."""
    return f"what is finished is kept in {path}, and the same command goes on from there"
