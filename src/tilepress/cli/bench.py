"""`tilepress bench`: how fast the kernel, the codec and whole models are on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilepress.cli.console import print_grid, print_json, print_note, print_table, progress_bar
from tilepress.cli.options import ComputeType, Json, Model, ModelPath, chosen_model
from tilepress.errors import UsageError
from tilepress.machine.requirements import human_bytes

if TYPE_CHECKING:
    from tilepress.bench.codec import Size
    from tilepress.bench.kernel import Row, Speed
    from tilepress.bench.machine import Machine

bench = typer.Typer(no_args_is_help=True, help="Measure the kernel, the codec or a model on this machine.")

Threads = Annotated[
    list[int] | None,
    typer.Option("--threads", min=1, help="Threads to measure with; may be repeated.", show_default="1, and all cores"),
]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Rounds that medians are taken of.")]
Quick = Annotated[bool, typer.Option("--quick", help="A short run, to try it out; not for figures to be quoted.")]


@bench.command()
def kernel(
    threads: Threads = None,
    repeats: Repeats = 7,
    quick: Quick = False,
    isa: Annotated[
        str | None, typer.Option("--isa", help="avx2: all contenders keep to it.", show_default="all that there is")
    ] = None,
    json: Json = False,
) -> None:
    """Time y = linear(x, compressed weight) beside uncompressed int8 and float products, in turn, in one run.

    The shapes are Qwen3-8B's; each contender visits more than 1 GB of weights, so that no cache helps. Some 10 minutes,
    10 GB of memory. TILEPRESS_RESIDENT chooses our weight's form, as of `run --resident`.

    Examples:

        tilepress bench kernel

        tilepress bench kernel --isa avx2

        tilepress bench kernel --threads 1 --quick --json
    """
    from tilepress.bench.kernel import FULL, QUICK, measure
    from tilepress.bench.machine import ENVIRONMENTS, describe_machine

    if isa is not None:
        if isa not in ENVIRONMENTS:
            raise UsageError(f"--isa {isa}: use {' or '.join(filter(None, ENVIRONMENTS))}")
        # Libraries look at their variables once, when they are loaded.
        counts = [word for count in threads or () for word in ("--threads", str(count))]
        words = [*counts, "--repeats", str(repeats), *["--quick"] * quick, *["--json"] * json]
        command = [sys.executable, "-m", "tilepress", "bench", "kernel", *words]
        raise typer.Exit(subprocess.run(command, env=os.environ | ENVIRONMENTS[isa], check=False).returncode)
    machine = describe_machine(_counts(threads))
    work = QUICK if quick else FULL
    total = len(work["shapes"]) * len(work["batches"]) * len(machine.bandwidth)
    rows = []
    with progress_bar("kernel") as progress:
        progress(0, total)
        for row in measure(machine, **work, repeats=repeats):
            rows.append(row)
            progress(len(rows), total)
    if json:
        print_json({"machine": machine.as_dict(), "rows": [row.as_dict() for row in rows]})
        return
    _print_machine(machine)
    _print_rows(rows)


@bench.command()
def gpu(
    device: Annotated[str, typer.Option("--device", help="cuda or cuda:N.")] = "cuda",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds that medians are taken of.")] = 20,
    interpret: Annotated[
        bool,
        typer.Option("--interpret", help="A tiny matrix in Triton's interpreter, without a GPU; figures mean nothing."),
    ] = False,
    json: Json = False,
) -> None:
    """Time compressed products on a CUDA device beside cuBLAS in bfloat16 and dense int8, in one run.

    The shapes are those of Qwen3-8B and 32B; each contender visits more than 512 MB of weights, so that no cache helps.
    Decoding alone is batch 0. A few minutes, 4 GB of the device's memory.

    Examples:

        tilepress bench gpu --json
    """
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
    from tilepress.kernels import check_device
    from tilepress.machine.device import resolve_device

    target = resolve_device("cpu" if interpret else device)
    if not interpret:
        check_device(target)
    from tilepress.bench.gpu import BATCHES, SHAPES, describe_device, measure

    work: dict[str, Any] = {"shapes": [(32, 512)], "batches": [1, 17], "ring_bytes": 0} if interpret else {}
    measured = describe_device(target, **({"nbytes": 1 << 16} if interpret else {}))
    total = len(work.get("shapes", SHAPES)) * (1 + len(work.get("batches", BATCHES)))
    rows = []
    with progress_bar("gpu") as progress:
        progress(0, total)
        for row in measure(target, measured.bandwidth, repeats=1 if interpret else repeats, **work):
            rows.append(row)
            progress(len(rows), total)
    if json:
        print_json({"device": measured.as_dict(), "rows": [row.as_dict() for row in rows]})
        return
    print_table(
        [
            ("device", measured.name),
            ("software", f"torch {measured.torch}, Triton {measured.triton}, Python {measured.python}"),
            ("bandwidth", f"{measured.bandwidth / 1e9:.0f} GB/s of a copy, read and written"),
        ]
    )
    lines = [
        (
            f"{row.n} x {row.k}, {f'batch {row.batch}' if row.batch else 'decode'}" if figure is row.ours else "",
            figure.name,
            f"{figure.seconds * 1e6:.1f}",
            f"{figure.teraweights_per_second:.2f}",
            f"{figure.of_roofline:.0%}",
            f"{row.times_bfloat16:.2f}" if figure is row.ours and row.times_bfloat16 else "",
            f"{row.times_int8:.2f}" if figure is row.ours and row.times_int8 else "",
        )
        for row in rows
        for figure in (row.ours, *row.peers)
    ]
    print_grid(("", "", "us", "T weights/s", "of roofline", "x bfloat16", "x int8"), lines)
    print_note("of roofline: the time of a copy of the bytes that a call moves, over the call's time")


@bench.command()
def codec(
    model_path: Annotated[
        str | None,
        typer.Option(
            "--model-path", "-m", help="A W8A8SC directory: only the size of its linears.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    repeats: Repeats = 5,
    quick: Quick = False,
    json: Json = False,
) -> None:
    """Size of compressed weights beside their entropy, and how fast they are encoded and decoded.

    Examples:

        tilepress bench codec

        tilepress bench codec -m Qwen3-8B-w8a8sc
    """
    from tilepress.bench.codec import DEVIATIONS, FULL, QUICK, measure, measure_checkpoint
    from tilepress.bench.machine import describe_machine

    if model_path is not None:
        size = measure_checkpoint(model_path)
        if json:
            print_json(size.as_dict())
        else:
            print_table(
                [("linears", str(size.matrices)), *zip(("entropy", "bits a weight", "ratio"), _size(size), strict=True)]
            )
        return
    machine = describe_machine(_counts(threads))
    work, rows = QUICK if quick else FULL, []
    with progress_bar("codec") as progress:
        for row in measure(**work, threads=list(machine.bandwidth), repeats=repeats):
            rows.append(row)
            progress(len(rows), len(DEVIATIONS))
    if json:
        print_json({"machine": machine.as_dict(), "rows": [row.as_dict() for row in rows]})
        return
    _print_machine(machine)
    lines = [
        (
            f"s = {row.deviation:g}, {_threads(speed.threads)}",
            *_size(row.size),
            f"{speed.encode / 1e6:.0f}",
            f"{speed.decode / 1e9:.2f}",
            f"{speed.decode_new / 1e9:.2f}",
        )
        for row in rows
        for speed in row.speeds
    ]
    print_grid(("", "entropy", "bits", "ratio", "encode MB/s", "decode GB/s", "new GB/s"), lines)
    print_note("bytes of int8; decode: into existing arrays, new: into new ones, page faults included")


@bench.command()
def model(
    model_argument: Model = None,
    model_path: ModelPath = None,
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens of the prompt.")] = 128,
    new: Annotated[int, typer.Option("--new", min=2, help="Tokens of the answer.")] = 64,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Answers that are generated at once.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, show_default="all cores")] = None,
    repeats: Repeats = 3,
    dtype: ComputeType = None,
    json: Json = False,
) -> None:
    """Time to first token, tokens a second and memory of a float, W8A8S or W8A8SC directory.

    Examples:

        tilepress bench model -m Qwen3-8B-w8a8sc

        tilepress bench model -m Qwen3-8B-w8a8sc --prompt 512 --new 128 --json
    """
    from tilepress.bench.end_to_end import measure
    from tilepress.bench.machine import describe_machine
    from tilepress.codec import core_count

    count = threads or core_count()
    with progress_bar("model") as progress:
        speed = measure(
            chosen_model(model_argument, model_path),
            threads=count,
            prompt_tokens=prompt,
            new_tokens=new,
            streams=streams,
            repeats=repeats,
            dtype=dtype,
            progress=progress,
        )
    machine = describe_machine([count])  # takes a gigabyte, hence not before the model's memory was measured
    if json:
        print_json(
            {"machine": machine.as_dict(), "model": speed.as_dict() | {"of_bandwidth": speed.of_bandwidth(machine)}}
        )
        return
    _print_machine(machine)
    print_table(
        [
            ("model", f"{speed.kind}, {human_bytes(speed.weight_bytes)}, computing in {speed.dtype}"),
            ("opened in", f"{speed.load_seconds:.2f} s"),
            (
                "first token",
                f"{speed.first_token_seconds:.3f} s after {speed.prompt_tokens} tokens of prompt, "
                f"{speed.prefill_tokens_per_second:.0f} tokens/s",
            ),
            (
                "decoding" if speed.streams == 1 else f"{speed.streams} answers",
                f"{speed.decode_tokens_per_second:.1f} tokens/s, reads {speed.gigabytes_per_second:.1f} GB/s, "
                f"{speed.of_bandwidth(machine):.0%} of what memory gives",
            ),
            ("peak memory", human_bytes(speed.peak_memory_bytes)),
        ]
    )


def _size(size: Size) -> tuple[str, str, str]:
    return f"{size.entropy:.3f}", f"{size.bits_per_weight:.3f}", f"{size.ratio:.4f}"


def _print_rows(rows: list[Row]) -> None:
    """Print our product and the fastest peer of each kind, for each shape, batch and number of threads."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        lines.append((f"{row.n} x {row.k}, {_threads(row.threads)}, batch {row.batch}",))
        more = "" if row.batch == 1 else f", {row.times_batch_1:.2f} x batch 1's time"
        lines.append((f"  {row.ours.name}{more}", *_figures(row.ours), ""))
        lines += [
            (f"  {peer.name}", *_figures(peer), f"{row.times_faster[peer.kind]:.2f} x") for peer in row.fastest_peers()
        ]
    print_grid(("", "ms", "Gw/s", "GB/s", "of memory", "faster by"), lines)
    print_note(
        "Gw/s: 10^9 weights a second. GB/s: of the bytes read, compressed or not. of memory: share of its bandwidth"
    )


def _figures(speed: Speed) -> tuple[str, ...]:
    return (
        f"{1e3 * speed.seconds:.3f}",
        f"{speed.gigaweights_per_second:.2f}",
        f"{speed.gigabytes_per_second:.2f}",
        f"{speed.of_bandwidth:.0%}",
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _counts(threads: list[int] | None) -> list[int]:
    from tilepress.codec import core_count

    return sorted(set(threads or (1, core_count())))


def _print_machine(machine: Machine) -> None:
    print_table(
        [
            ("processor", f"{machine.processor}, {machine.cores} cores, {human_bytes(machine.memory_bytes)} of memory"),
            ("kernels", machine.instruction_set),
            (
                "memory is read at",
                ", ".join(f"{human_bytes(rate)}/s by {_threads(count)}" for count, rate in machine.bandwidth.items()),
            ),
            ("software", f"{machine.system}, Python {machine.python}, torch {machine.torch}"),
        ]
    )
