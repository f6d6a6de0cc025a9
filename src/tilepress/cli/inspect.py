"""`tilepress inspect`: what a directory is, or whether two hold the same model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import print_json, print_table, progress_bar
from tilepress.cli.options import Json
from tilepress.errors import CheckpointError, UsageError
from tilepress.machine.requirements import human_bytes


def inspect(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR [DIR]", help="A model directory; with --verify a W8A8S and a W8A8SC one."),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare a W8A8S directory with its W8A8SC directory, bit for bit.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what a float, W8A8S or W8A8SC directory is: kind, layers, activations, types, sizes, bits a weight, zeros.

    Examples:

        tilepress inspect Qwen3-8B-w8a8sc

        tilepress inspect --verify Qwen3-8B-w8a8s Qwen3-8B-w8a8sc
    """
    if verify:
        if len(directories) != 2:
            raise UsageError(f"--verify compares two directories, W8A8S and W8A8SC; {len(directories)} given")
        _verify(directories[0], directories[1], json)
    elif len(directories) != 1:
        raise UsageError(f"inspect takes one directory, {len(directories)} given; --verify compares two")
    else:
        _describe(directories[0], json)


def _describe(directory: Path, json: bool) -> None:
    from tilepress.checkpoint import open_checkpoint, summarize
    from tilepress.checkpoint.targets import TARGETS, TILEPRESS, refusals

    with progress_bar("inspect") as progress:
        checkpoint = open_checkpoint(directory)
        summary = summarize(checkpoint, progress=progress)
    others = [target for target in TARGETS.values() if not target.own] if summary.kind == "w8a8s" else []
    takers = [target for target in others if not refusals(checkpoint.path, target)]
    if json:
        print_json(asdict(summary) | {"loads_in": [TILEPRESS.name, *(target.name for target in takers)]})
        return
    rows = [
        ("kind", summary.kind),
        ("architecture", f"{summary.architecture}, {summary.layers} layers"),
        ("tensor-parallel parts", str(summary.tp)),
        *((name, f"{count.tensors} tensors, {human_bytes(count.nbytes)}") for name, count in summary.types.items()),
        ("linear weights", f"{summary.linear_weights:,}, of them {summary.quantized_weights:,} quantized"),
    ]
    if summary.activations is not None:
        rows.append(("activations", summary.activations))
    rows += [("loads in", target.engines) for target in takers]
    if summary.bits_per_weight is not None and summary.entropy is not None and summary.zeros is not None:
        rows += [
            ("bits a weight", f"{summary.bits_per_weight:.3f} (order-0 entropy {summary.entropy:.3f})"),
            ("zeros", f"{summary.zeros:.1%}"),
        ]
    if summary.estimated_loss is not None:
        rows.append(("estimated loss", f"{summary.estimated_loss:.4f} nats a token"))
    rows += [("weight files", human_bytes(summary.weight_bytes)), ("directory", human_bytes(summary.total_bytes))]
    print_table(rows)


def _verify(quantized: Path, compressed: Path, json: bool) -> None:
    from tilepress.compress import verify

    with progress_bar("verify") as progress:
        result = verify(quantized, compressed, progress=progress)
    if json:
        print_json(asdict(result) | {"same": result.same})
    elif result.same:
        print_table([("same", f"{result.linears} linears and {result.floats} float tensors, bit for bit")])
    if not result.same:
        raise CheckpointError(
            f"{compressed} differs from {quantized} in {len(result.differing)} tensors, first {result.differing[0]}; "
            "compress again"
        )
