"""`tilepress compress`: a W8A8S directory becomes a W8A8SC directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import (
    human_seconds,
    is_silent,
    note_requirements,
    noting_progress,
    print_json,
    print_note,
    print_table,
    progress_bar,
)
from tilepress.cli.options import Coding, Json, Model, ModelPath, Restart, TrustRemoteCode, chosen_model
from tilepress.errors import UsageError
from tilepress.machine.requirements import human_bytes


def compress(
    save_directory: Annotated[
        Path, typer.Option("--save-directory", "-o", help="W8A8SC directory to make.", show_default=False)
    ],
    model_argument: Model = None,
    model_path: ModelPath = None,
    tp: Annotated[
        int | None,
        typer.Option("--tp", min=1, help="Tensor-parallel parts.", show_default="1; under torchrun its processes"),
    ] = None,
    coding: Coding = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the encoder.", show_default="all cores")
    ] = None,
    multiprocess_num: Annotated[
        int | None, typer.Option("--multiprocess-num", min=1, help="The vendor's word for --threads.", hidden=True)
    ] = None,
    save_split_w8a8s_dir: Annotated[Path | None, typer.Option("--save-split-w8a8s-dir", hidden=True)] = None,
    restart: Restart = False,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Compress a W8A8S directory without loss into a W8A8SC directory, one part for each tensor-parallel rank.

    The same command continues a run that was cut short.

    Examples:

        tilepress compress --model-path Qwen3-8B-w8a8s --save-directory Qwen3-8B-w8a8sc --tp 4

        torchrun --nproc_per_node 4 -m tilepress.compress --model_path Qwen3-8B-w8a8s --save_directory Qwen3-8B-w8a8sc
    """
    from tilepress.checkpoint import W8A8SCheckpoint, open_checkpoint
    from tilepress.compress import (
        compress_directory,
        compress_under_torchrun,
        compressible,
        kept_progress,
        plan_compression,
    )
    from tilepress.distributed import launched_by_torchrun

    save_directory = save_directory.expanduser()
    if save_split_w8a8s_dir is not None:
        raise UsageError(
            f"--save-split-w8a8s-dir {save_split_w8a8s_dir}: tilepress writes no W8A8S parts, as it splits and "
            "compresses in one go; leave the option out"
        )
    threads = threads or multiprocess_num
    if trust_remote_code:
        print_note("compressing needs no remote code; none is run")
    started, model = time.monotonic(), chosen_model(model_argument, model_path)
    with noting_progress(lambda: kept_progress(save_directory)), progress_bar("compress") as progress:
        if launched_by_torchrun():
            world = int(os.environ["WORLD_SIZE"])
            if tp not in (None, world):
                raise UsageError(
                    f"--tp is {tp}, but torchrun started {world} processes; each makes one part; leave --tp out"
                )
            compress_under_torchrun(
                model, save_directory, coding=coding, threads=threads, restart=restart, progress=progress
            )
            if is_silent():
                return
        else:
            source = open_checkpoint(model)
            if isinstance(source, W8A8SCheckpoint) and not save_directory.exists():
                needs = plan_compression(compressible(source), save_directory)
                needs.check()
                note_requirements(needs)
            compress_directory(
                model,
                save_directory,
                tp=tp or 1,
                coding=coding,
                threads=threads,
                restart=restart,
                progress=progress,
            )
    parts = sorted(save_directory.glob("part*-of-*/*.safetensors"))
    size, seconds = sum(part.stat().st_size for part in parts), time.monotonic() - started
    if json:
        print_json({"save_directory": str(save_directory), "tp": len(parts), "bytes": size, "seconds": seconds})
        return
    print_table(
        [
            ("W8A8SC directory", str(save_directory)),
            ("parts", f"{len(parts)}, {human_bytes(size)} in all"),
            ("time", human_seconds(seconds)),
        ]
    )
