"""`tilepress decompress`: a W8A8SC directory becomes the W8A8S directory that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import is_silent, print_json, print_table, progress_bar
from tilepress.cli.options import Json


def decompress(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A W8A8SC directory, of any number of parts.")],
    save_path: Annotated[Path, typer.Option("--save-path", "-o", help="W8A8S directory to make.", show_default=False)],
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the decoder.", show_default="all cores")
    ] = None,
    json: Json = False,
) -> None:
    """Decode a W8A8SC directory into the W8A8S directory that it was made of, bit for bit.

    Examples:

        tilepress decompress Qwen3-8B-w8a8sc -o Qwen3-8B-w8a8s
    """
    from tilepress.compress import decompress_directory

    out = save_path.expanduser()
    with progress_bar("decompress") as progress:
        decompress_directory(directory, out, threads=threads, progress=progress)
    if is_silent():
        return
    if json:
        print_json({"save_path": str(out)})
    else:
        print_table([("W8A8S directory", str(out))])
