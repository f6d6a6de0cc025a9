"""`tilepress plan`: what making a model small will need of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilepress.cli.console import parse_bytes, print_json, print_requirements
from tilepress.cli.options import (
    Activations,
    Bits,
    BlockSteps,
    Coding,
    Device,
    DistillSteps,
    Effort,
    Embeddings,
    FloatAbove,
    FloatLinears,
    Head,
    Json,
    Loss,
    MaxMemory,
    ModelType,
    RecipePath,
    Samples,
    Seed,
    SelfCalibration,
    SequenceLength,
    Size,
    StoredType,
    given,
    print_recipe,
)
from tilepress.errors import UsageError

if TYPE_CHECKING:
    import torch

    from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint
    from tilepress.machine.requirements import Requirements
    from tilepress.quantize import Recipe


def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A float or W8A8S directory, or a hub id.", show_default=False)
    ],
    save_path: Annotated[
        Path, typer.Option("--save-path", "-o", help="Where the directories would be made.", show_default="here")
    ] = Path("planned"),
    device: Device = "cpu",
    model_type: ModelType = None,
    recipe_path: RecipePath = None,
    engine: Annotated[
        str | None,
        typer.Option("--for", help="As of quant: tilepress, vendor, vendor-a2, vllm-stock.", show_default="tilepress"),
    ] = None,
    bits: Bits = None,
    size: Size = None,
    loss: Loss = None,
    head: Head = None,
    embeddings: Embeddings = None,
    float_linears: FloatLinears = None,
    float_above: FloatAbove = None,
    activations: Activations = None,
    self_calibration: SelfCalibration = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    dtype: StoredType = None,
    distill_steps: DistillSteps = None,
    block_steps: BlockSteps = None,
    max_memory: MaxMemory = None,
    seed: Seed = None,
    coding: Coding = None,
    effort: Effort = None,
    json: Json = False,
) -> None:
    """Say how much memory, disk and time `quant`, `compress` and `run` will take. Reads headers, not weights.

    Exits with 2 where something does not fit, and says what would make it fit.

    Examples:

        tilepress plan Qwen3-8B

        tilepress plan Qwen3-32B --bits 3.5 --samples 64 --sequence-length 512 --save-path /data/small

        tilepress plan Qwen3-8B-w8a8s --json
    """
    from tilepress.checkpoint import FloatCheckpoint, W8A8SCCheckpoint, open_checkpoint
    from tilepress.machine.device import resolve_device
    from tilepress.quantize import choose_recipe, for_engine

    save_path = save_path.expanduser()
    chosen = given(
        bits=bits,
        size=size,
        loss=loss,
        head=head,
        embeddings=embeddings,
        float_linears=float_linears,
        float_above=float_above,
        activations=activations,
        self_calibration=self_calibration,
        dtype=dtype,
        samples=samples,
        sequence_length=sequence_length,
        seed=seed,
        distill_steps=distill_steps,
        block_steps=block_steps,
        coding=coding,
        effort=effort,
    )
    chosen = for_engine(engine, chosen)
    memory = None if max_memory is None else parse_bytes("--max-memory", max_memory)
    target = resolve_device(device)
    source = open_checkpoint(model)
    if isinstance(source, W8A8SCCheckpoint):
        raise UsageError(f"{source.path}: is compressed already; there is nothing to plan but to run it")
    name = None
    if isinstance(source, FloatCheckpoint):
        choice = choose_recipe(source.config, file=recipe_path, model_type=model_type)
        print_recipe(choice)
        name = choice.name
        needs = _for_float(source, choice.recipe(chosen), save_path, target, memory)
    elif chosen or recipe_path or model_type:
        raise UsageError(f"{source.path}: is quantized already; options of the quantization do not change it")
    else:
        needs = _for_quantized(source, save_path)
    problems = [problem for needed in needs for problem in needed.problems()]
    if json:
        print_json({"recipe_name": name, "problems": problems, "steps": [needed.as_dict() for needed in needs]})
    else:
        print_requirements(needs)
    if problems:
        raise UsageError("; ".join(problems))


def _for_float(
    source: FloatCheckpoint, recipe: Recipe, out: Path, device: torch.device, max_memory: int | None
) -> list[Requirements]:
    """Return what `quant`, `compress` and `run` need, from a float model to an answer."""
    from tilepress.codec import resident
    from tilepress.compress import Compressible, plan_compression
    from tilepress.engines.residency import takes_fast_form
    from tilepress.engines.transformers.loading import plan_run
    from tilepress.quantize import measure_throughput, plan_quantization, w8a8sc_size

    size = w8a8sc_size(source, recipe)
    in_memory = resident(size, recipe.coding, fast=takes_fast_form(None))
    return [
        plan_quantization(source, recipe, out, device, max_memory, measure_throughput(device)),
        plan_compression(Compressible(source.shape, recipe.head, recipe.has_own_embedding(source.shape), size), out),
        plan_run(source.shape, in_memory, head=recipe.head, embeddings=recipe.embeddings),
    ]


def _for_quantized(source: W8A8SCheckpoint, out: Path) -> list[Requirements]:
    from tilepress.checkpoint import EMBEDDING
    from tilepress.checkpoint.description import CODING
    from tilepress.codec import resident
    from tilepress.compress import compressible, plan_compression
    from tilepress.engines.residency import takes_fast_form
    from tilepress.engines.transformers.loading import plan_run

    model = compressible(source)
    embeddings = source.shares_table or source.is_quantized(EMBEDDING)
    run = plan_run(
        source.shape,
        resident(model.output, source.description.extra.get(CODING), fast=takes_fast_form(None)),
        head=model.head,
        embeddings=embeddings,
    )
    return [plan_compression(model, out), run]
