"""`tilepress convert`: a W8A8S directory in the form of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import is_silent, print_json, print_table, progress_bar
from tilepress.cli.options import Engine, Json


def convert(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A W8A8S directory.")],
    save_path: Annotated[Path, typer.Option("--save-path", "-o", help="Directory to make.", show_default=False)],
    engine: Engine = "tilepress",
    json: Json = False,
) -> None:
    """Write a W8A8S directory in the form that another engine takes; integers and scales stay what they are.

    Examples:

        tilepress convert Qwen3-8B-w8a8s -o Qwen3-8B-npu --for vendor

        tilepress convert made-by-msmodelslim -o ours --for tilepress

        tilepress convert Qwen3-8B-w8a8s -o Qwen3-8B-int8 --for vllm-stock

    What the engine cannot compute (dynamic activations, an integer head or embedding) has to be quantized anew:
    tilepress quant --for vendor.
    """
    from tilepress.checkpoint.convert import convert_directory
    from tilepress.checkpoint.export import export_directory
    from tilepress.checkpoint.targets import VLLM_STOCK, target_named

    target, out = target_named(engine), save_path.expanduser()
    with progress_bar("convert") as progress:
        if target is VLLM_STOCK:
            export_directory(directory, out, progress=progress)
        else:
            convert_directory(directory, out, target, progress=progress)
    if is_silent():
        return
    if json:
        print_json({"save_path": str(out), "for": target.name})
    else:
        kind = "compressed-tensors" if target is VLLM_STOCK else "W8A8S"
        print_table([(f"{kind} directory", str(out)), ("made for", target.engines)])
