"""How the commands show what they need of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilepress.cli.console import human_bytes, human_seconds, print_grid, print_note

if TYPE_CHECKING:
    from tilepress.needs import Needs


def print_needs(needs: Sequence[Needs]) -> None:
    """A row for each piece of work; what is there in brackets."""
    columns = ("", "memory (available)", "disk (free)", "time, about", "makes")
    print_grid(columns, [(needed.work, *_cells(needed)) for needed in needs])


def note_needs(needed: Needs) -> None:
    """One line, before work begins."""
    memory, disk, time, makes = _cells(needed)
    print_note(f"plan: memory {memory}, disk {disk}, about {time}; makes {makes}")


def _cells(needed: Needs) -> tuple[str, str, str, str]:
    memory = f"{human_bytes(needed.memory.needed)} ({human_bytes(needed.memory.available)})"
    disk = ", ".join(f"{human_bytes(disk.needed)} ({human_bytes(disk.free)})" for disk in needed.disks)
    time = "" if needed.seconds is None else _rough(needed.seconds)
    return memory, disk, time, human_bytes(needed.output) if needed.output else ""


def _rough(seconds: float) -> str:
    """No finer than an estimate is: hours and tens of minutes, minutes, or seconds."""
    if seconds < 120:
        return human_seconds(round(seconds) or 1).replace(".0 s", " s")
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
