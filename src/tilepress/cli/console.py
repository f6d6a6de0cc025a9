"""Output of the commands: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tilepress.errors import UsageError
from tilepress.machine.requirements import human_bytes

if TYPE_CHECKING:
    from tilepress.machine.requirements import Requirements


OUT = Console()
ERR = Console(stderr=True)


def is_silent() -> bool:
    """Return True in a process of torchrun other than rank 0, which alone shows results."""
    return os.environ.get("RANK", "0") != "0"


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time left on standard error; nothing where that is not a terminal or `is_silent`.

    Yields a function to call with the steps done and the steps in all.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal or is_silent()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: list[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, value)
    OUT.print(table, highlight=False)


def print_grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with headings; numbers to the right, the first column to the left."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    OUT.print(table, highlight=False)


def print_error(message: str) -> None:
    ERR.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)


def print_note(message: str) -> None:
    if is_silent():
        return
    ERR.print(f"[bold yellow]note:[/] {escape(message)}", soft_wrap=True, highlight=False)


def human_seconds(seconds: float) -> str:
    """125.3 -> '2 min 5 s'; below two minutes seconds alone."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def parse_bytes(option: str, text: str) -> int:
    """Return the bytes of a size: KB to TB are decimal, KiB to TiB binary. UsageError names `option`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError(f"{option} {text}: no size; write one such as 90MB, 1.5GB or 800MiB")
    return round(float(match[1]) * _UNITS[match[2].lower()])


@contextmanager
def noting_progress(kept: Callable[[], str | None]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, print a note of what is kept, if anything is; errors say it themselves."""
    try:
        yield
    except KeyboardInterrupt:
        if (sentence := kept()) is not None:
            print_note(sentence)
        raise


def print_requirements(needs: Sequence[Requirements]) -> None:
    """Print a row for each job; what the machine has is in brackets."""
    columns = ("", "memory (available)", "disk (free)", "time, about", "makes")
    print_grid(columns, [(needed.work, *_cells(needed)) for needed in needs])


def note_requirements(needed: Requirements) -> None:
    """Print the requirements in one line, before a job begins."""
    memory, disk, time, makes = _cells(needed)
    print_note(f"plan: memory {memory}, disk {disk}, about {time}; makes {makes}")


def _cells(needed: Requirements) -> tuple[str, str, str, str]:
    memory = f"{human_bytes(needed.memory.needed)} ({human_bytes(needed.memory.available)})"
    disk = ", ".join(f"{human_bytes(disk.needed)} ({human_bytes(disk.free)})" for disk in needed.disks)
    time = "" if needed.seconds is None else _rough(needed.seconds)
    return memory, disk, time, human_bytes(needed.output) if needed.output else ""


def _rough(seconds: float) -> str:
    """Return a time as coarse as the estimate: in hours and tens of minutes, minutes, or seconds."""
    if seconds < 120:
        return human_seconds(round(seconds) or 1).replace(".0 s", " s")
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
