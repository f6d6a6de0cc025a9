"""What the commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

OUT = Console()
ERR = Console(stderr=True)


class ProgressCallback(Protocol):
    """Called after each step with the steps done, the steps in all and what is being done."""

    def __call__(self, done: int, total: int, what: str = "") -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """A bar with the time left, on standard error; nothing where that is not a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{title} {what}".rstrip())

        yield update


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    OUT.print_json(json.dumps(value)) if OUT.is_terminal else print(json.dumps(value, indent=2))


def print_error(message: str) -> None:
    ERR.print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True, highlight=False)


def print_note(message: str) -> None:
    ERR.print(f"[bold yellow]note:[/] {_escaped(message)}", soft_wrap=True, highlight=False)


def _escaped(message: str) -> str:
    return message.replace("[", r"\[")


def human_bytes(count: float) -> str:
    """1234567 -> '1.23 MB' (decimal units, as disks and downloads are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
