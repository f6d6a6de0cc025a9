"""`tilepress export`: a W8A8S directory in a format that others read without tilepress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import is_silent, print_json, print_table, progress_bar
from tilepress.cli.options import Json
from tilepress.errors import UsageError


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A W8A8S directory.")],
    save_path: Annotated[Path, typer.Option("--save-path", "-o", help="Directory to make.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="compressed-tensors, which stock vLLM reads.")] = "compressed-tensors",
    json: Json = False,
) -> None:
    """Write a W8A8S directory for stock vLLM, without tilepress's plugin: int8 weights, no compression, no sparsity.

    Head and embedding have to be float, activations dynamic (the default of quant) or static.

    Examples:

        tilepress quant Qwen3-8B -o Qwen3-8B-w8a8s --no-head --no-embeddings

        tilepress export Qwen3-8B-w8a8s -o Qwen3-8B-int8 --to compressed-tensors
    """
    from tilepress.checkpoint.export import COMPRESSED_TENSORS, export_directory

    if to != COMPRESSED_TENSORS:
        raise UsageError(f"--to {to}: {COMPRESSED_TENSORS} is the only format")
    out = save_path.expanduser()
    with progress_bar("export") as progress:
        export_directory(directory, out, progress=progress)
    if is_silent():
        return
    if json:
        print_json({"save_path": str(out), "format": to})
    else:
        print_table([(f"{to} directory", str(out)), ("loads in", "vLLM, and transformers with compressed-tensors")])
