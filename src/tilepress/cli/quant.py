"""`tilepress quant`: a float checkpoint becomes a W8A8S directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.byte_sizes import parse_bytes
from tilepress.cli.console import human_seconds, is_silent, print_json, print_note, print_table, progress_bar
from tilepress.cli.options import Device, Json, ModelPath, TrustRemoteCode
from tilepress.cli.progress_kept import going_on
from tilepress.errors import UsageError


def quant(
    model_path: ModelPath,
    save_path: Annotated[Path, typer.Option("--save-path", "-o", help="W8A8S directory to make.", show_default=False)],
    device: Device = "cpu",
    model_type: Annotated[
        str | None, typer.Option("--model-type", help="Such as Qwen3-8B. Only checked: config.json decides.")
    ] = None,
    quant_type: Annotated[str, typer.Option("--quant-type", help="w8a8s is the only one.")] = "w8a8s",
    bits: Annotated[
        float | None, typer.Option("--bits", help="Compressed bits a weight to aim at.", show_default="4.0")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="Or the size of the W8A8SC weight file to aim at, such as 90MB or 1.5GiB."),
    ] = None,
    loss: Annotated[
        float | None,
        typer.Option("--loss", help="Or the increase of the loss to aim at, as predicted, in nats a token."),
    ] = None,
    head: Annotated[bool, typer.Option("--head", help="Quantize the output head too.")] = False,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Quantize the embedding too; of a tied model, with --head."),
    ] = False,
    activations: Annotated[
        str,
        typer.Option(
            "--activations",
            help="Tokens beyond the static ranges: overflow gives them their own scales; static clips them, for other "
            "engines; per-token clips them, but gives all tokens of down_proj their own scales.",
        ),
    ] = "overflow",
    calib: Annotated[
        Path | None,
        typer.Option(help="Calibration text: .jsonl, .json or .txt.", show_default="docstrings that come with Python"),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Calibration sequences.", show_default="128, or what is feasible")
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", help="Tokens of each.", show_default="2048, or what is feasible"),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Stored float type: float16 or bfloat16.")] = "float16",
    distill_steps: Annotated[
        int | None,
        typer.Option(
            "--distill-steps",
            help="Train scales, norm gains and biases against the float model for so many steps of one sequence; "
            "0 for none.",
            show_default="45, or what is feasible",
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            help="Memory to keep to, such as 8GB: what the layers read is on disk where it does not fit.",
            show_default="a quarter of the machine's for what the layers read",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where an earlier run with this --save-path was cut short.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the calibration text's order and the samples.")] = 0,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Make a W8A8S directory from float weights: zero what matters least, quantize weights and activations to int8.

    Examples:

        tilepress quant --model-path Qwen3-8B --save-path Qwen3-8B-w8a8s

        tilepress quant --model-path Qwen3-8B --save-path small --bits 3.5 --calib conversations.jsonl

        tilepress quant --model-path Qwen3-8B --save-path small --size 4GB --head --embeddings

        torchrun --nproc_per_node 8 -m tilepress.quantize --model_path Qwen3-8B --save_path small --device cuda

        tilepress quant --model-path Qwen3-32B --save-path Qwen3-32B-w8a8s --dtype bfloat16 --max-memory 14GB

    Cut short, by Ctrl-C or by a full disk, the same command goes on after the last layer that was finished, and makes
    the same bytes; with other options it asks for --restart, which begins anew.
    """
    from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
    from tilepress.device import resolve_device
    from tilepress.group import launched_by_torchrun
    from tilepress.quantize import Recipe, quantize_checkpoint, quantize_under_torchrun

    if quant_type.lower() != "w8a8s":
        raise UsageError(f"--quant-type {quant_type}: w8a8s is the only one; `tilepress compress` makes w8a8sc of it")
    recipe = Recipe(
        bits=bits,
        size=None if size is None else parse_bytes("--size", size),
        loss=loss,
        head=head,
        embeddings=embeddings,
        activations=activations,
        dtype=dtype,
        samples=samples,
        sequence_length=sequence_length,
        seed=seed,
        distill_steps=distill_steps,
    )
    resolve_device(device)
    source = open_checkpoint(model_path)
    if not isinstance(source, FloatCheckpoint):
        raise UsageError(f"{source.path}: {source.kind} weights are quantized already; give the float model")
    family = str(source.config.get("model_type"))
    if model_type is not None and family not in model_type.lower():
        print_note(f"--model-type is {model_type}, but config.json says {family}; config.json decides")
    if trust_remote_code:
        print_note("Qwen3, Qwen2 and Llama need no remote code; none is run")
    quantize = quantize_under_torchrun if launched_by_torchrun() else quantize_checkpoint
    with going_on(save_path), progress_bar("quantize") as progress:
        report = quantize(
            source,
            save_path,
            recipe,
            calibration=calib,
            device=device,
            max_memory=None if max_memory is None else parse_bytes("--max-memory", max_memory),
            restart=restart,
            progress=lambda p: progress(p.done, p.total),
        )
    if is_silent():
        return
    if report.limits:
        print_note(
            f"calibrated on {report.samples} x {report.sequence_length} tokens instead of 128 x 2048, limited by "
            f"{' and '.join(report.limits)}; --samples and --sequence-length override that"
        )
    if json:
        print_json(report.as_dict() | {"save_path": str(save_path)})
        return
    rows = [
        ("W8A8S directory", str(save_path)),
        ("compressed", f"{report.bits:.3f} bits a weight"),
        ("zeros", f"{report.zeros:.1%}"),
        ("loss of weights and activations", f"{report.loss:.4f} nats a token, estimated"),
        ("calibration", f"{report.samples} x {report.sequence_length} tokens"),
    ]
    if (trained := report.distillation) is not None:
        outcome = "" if trained.kept else ", dropped: not lower"
        rows.append(("distillation", f"KL {trained.loss_before:.4f} to {trained.loss_after:.4f} nats{outcome}"))
    rows.append(("time", human_seconds(report.seconds)))
    print_table(rows)
