"""`tilepress reshard`: a W8A8SC directory is made anew for another number of tensor-parallel ranks."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import human_seconds, noting_progress, print_json, print_table, progress_bar
from tilepress.cli.options import Json, Restart
from tilepress.machine.requirements import human_bytes


def reshard(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="W8A8SC directory, of any number of parts.")],
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel parts to make.", show_default=False)],
    save_directory: Annotated[
        Path, typer.Option("--save-directory", "-o", help="W8A8SC directory to make.", show_default=False)
    ],
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the codec.", show_default="all cores")
    ] = None,
    restart: Restart = False,
    json: Json = False,
) -> None:
    """Make a W8A8SC directory anew for another number of tensor-parallel ranks, without loss.

    Whole tiles move as bytes; only those that a new cut goes through are encoded again. Engines load a directory of any
    number of parts by themselves: this saves them encoding tiles at each start. The same command continues a run that
    was cut short.

    Example:

        tilepress reshard Qwen3-8B-w8a8sc --tp 2 --save-directory Qwen3-8B-w8a8sc-tp2
    """
    from tilepress.compress import kept_progress, reshard_directory

    save_directory = save_directory.expanduser()
    started = time.monotonic()
    with noting_progress(lambda: kept_progress(save_directory)), progress_bar("reshard") as progress:
        made = reshard_directory(directory, save_directory, tp=tp, threads=threads, restart=restart, progress=progress)
    parts = save_directory.glob("part*-of-*/*.safetensors")
    size, seconds = sum(part.stat().st_size for part in parts), time.monotonic() - started
    if json:
        print_json({"save_directory": str(save_directory), **asdict(made), "bytes": size, "seconds": seconds})
        return
    print_table(
        [
            ("W8A8SC directory", str(save_directory)),
            ("parts", f"{made.tp} of {made.before}, {human_bytes(size)} in all"),
            ("tiles", f"{made.tiles}, {made.encoded} of them encoded again"),
            ("time", human_seconds(seconds)),
        ]
    )
