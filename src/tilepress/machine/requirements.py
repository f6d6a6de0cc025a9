"""What a piece of work needs of this machine, and what is short."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from tilepress.errors import UsageError

# A prediction may be so far off; work is refused where even this much less does not fit.
TOLERANCE = 0.15

# Bytes a second that a disk is taken to read or write: a plain SSD's. Nothing is measured, since caches would answer.
DISK_SPEED = 500e6


def human_bytes(count: float) -> str:
    """1234567 -> '1.23 MB' (decimal units, as disks and downloads are sold)."""
    return decimal(round(count), precision=2)


@dataclass(frozen=True)
class Memory:
    """needed: bytes resident at the peak; available: those that the process can have, on a device or the host.

    remedy: what would make it fit.
    """

    needed: int
    available: int
    remedy: str


@dataclass(frozen=True)
class Disk:
    """needed: bytes to be written under `folder` for `purpose`; remedy: what would make them fit.

    free: bytes of the folder's file system, of the number `filesystem`.
    """

    purpose: str
    folder: Path
    needed: int
    remedy: str
    free: int
    filesystem: int


@dataclass(frozen=True)
class Requirements:
    """work: the command. seconds: estimated; output: bytes of what is made, 0 where nothing is."""

    work: str
    memory: Memory
    disks: tuple[Disk, ...]
    seconds: float | None
    output: int

    def check(self) -> None:
        """Raises UsageError for memory or a disk that cannot hold this, with what would make it fit."""
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
        """A sentence for everything that cannot fit. What shares a file system is added up."""
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
    """With what is free where `folder`, or what of its path there is already, lies."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return Disk(purpose, folder, needed, remedy, shutil.disk_usage(there).free, there.stat().st_dev)
