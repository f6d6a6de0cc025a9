"""Requirements of a command on this machine, and a check that they are met."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from tilepress.errors import UsageError

# Relative error of a prediction; a command is refused where even this much less does not fit.
TOLERANCE = 0.15

# Assumed bytes per second of a disk, those of a plain SSD. Nothing is measured, since that would measure caches.
DISK_SPEED = 500e6


def human_bytes(count: float) -> str:
    """1234567 -> '1.23 MB' (decimal units, as disks and downloads are sold)."""
    return decimal(round(count), precision=2)


@dataclass(frozen=True)
class Memory:
    """needed: bytes resident at the peak. available: bytes that the process can have, on a device or the host.

    remedy: what would make it fit.
    """

    needed: int
    available: int
    remedy: str


@dataclass(frozen=True)
class Disk:
    """needed: bytes to be written under `folder` for `purpose`. remedy: what would make them fit.

    free: free bytes of the folder's file system. filesystem: its device number.
    """

    purpose: str
    folder: Path
    needed: int
    remedy: str
    free: int
    filesystem: int


@dataclass(frozen=True)
class Requirements:
    """work: name of the command. seconds: estimate. output: bytes of the result, 0 without one."""

    work: str
    memory: Memory
    disks: tuple[Disk, ...]
    seconds: float | None
    output: int

    def check(self) -> None:
        """Raises UsageError for memory or a disk that is too small, with what would make it fit."""
        problems = self.problems()
        if problems:
            raise UsageError("; ".join(problems))

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values for JSON."""
        values = asdict(self)
        for needed in values["disks"]:
            needed["folder"] = str(needed["folder"])
        return values

    def problems(self) -> list[str]:
        """Return a sentence for everything that does not fit. Needs on one file system are added up."""
        found = []
        memory = self.memory
        if memory.needed * (1 - TOLERANCE) > memory.available:
            found.append(
                f"{self.work} needs {human_bytes(memory.needed)} of memory and {human_bytes(memory.available)} are "
                f"available; {memory.remedy}"
            )
        for filesystem in dict.fromkeys(disk.filesystem for disk in self.disks):
            sharing = [disk for disk in self.disks if disk.filesystem == filesystem and disk.needed]
            if sum(disk.needed for disk in sharing) > min((disk.free for disk in sharing), default=0):
                parts = (f"{human_bytes(disk.needed)} in {disk.folder} for {disk.purpose}" for disk in sharing)
                remedies = ", or ".join(disk.remedy for disk in sharing)
                free = human_bytes(sharing[0].free)
                found.append(f"{self.work} needs {' and '.join(parts)}, and {free} are free there; {remedies}")
        return found


def disk(purpose: str, folder: Path, needed: int, remedy: str) -> Disk:
    """Return a Disk with the free space of `folder`, or of its nearest parent that exists."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return Disk(purpose, folder, needed, remedy, shutil.disk_usage(there).free, there.stat().st_dev)
