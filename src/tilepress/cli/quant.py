"""`tilepress quant`: a float checkpoint becomes a W8A8S directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilepress.cli.console import (
    human_seconds,
    is_silent,
    note_requirements,
    noting_progress,
    parse_bytes,
    print_json,
    print_note,
    print_table,
    progress_bar,
)
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
    Model,
    ModelPath,
    ModelType,
    RecipePath,
    Samples,
    Seed,
    SelfCalibration,
    SequenceLength,
    Size,
    StoredType,
    TrustRemoteCode,
    chosen_model,
    given,
    print_recipe,
)
from tilepress.errors import UsageError

# What calibrated, by `QuantizationReport.text`.
_OF = {"default": "", "file": " of a text given", "self": " that the model wrote"}


def quant(
    save_path: Annotated[Path, typer.Option("--save-path", "-o", help="W8A8S directory to make.", show_default=False)],
    model_argument: Model = None,
    model_path: ModelPath = None,
    device: Device = "cpu",
    model_type: ModelType = None,
    recipe_path: RecipePath = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Whose form the directory has: tilepress, vendor (MindIE-LLM and vLLM-Ascend on 310P), vendor-a2 or "
            "vllm-stock.",
            show_default="tilepress; vendor for the vendor's own command line",
        ),
    ] = None,
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config-path",
            help="A quantization config of msModelSlim, .yaml: what it leaves float, its text and ranges are taken, "
            "other fields are named.",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="msModelSlim's scenario: Atlas_A2_Inference means --for vendor-a2.", hidden=True),
    ] = None,
    quant_type: Annotated[
        str | None, typer.Option("--quant-type", help="w8a8s is the only type.", show_default="w8a8s")
    ] = None,
    bits: Bits = None,
    size: Size = None,
    loss: Loss = None,
    head: Head = None,
    embeddings: Embeddings = None,
    float_linears: FloatLinears = None,
    float_above: FloatAbove = None,
    activations: Activations = None,
    calib: Annotated[
        Path | None,
        typer.Option(help="Calibration text: .jsonl, .json or .txt.", show_default="a mixed text of tilepress's own"),
    ] = None,
    self_calibration: SelfCalibration = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    dtype: StoredType = None,
    distill_steps: DistillSteps = None,
    block_steps: BlockSteps = None,
    max_memory: MaxMemory = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where an earlier run with this --save-path was cut short.")
    ] = False,
    seed: Seed = None,
    coding: Coding = None,
    effort: Effort = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Make a W8A8S directory from float weights: zero what matters least, quantize weights and activations to int8.

    Examples:

        tilepress quant --model-path Qwen3-8B --save-path Qwen3-8B-w8a8s

        tilepress quant --model-path Qwen3-8B --save-path small --bits 3.5 --calib conversations.jsonl

        tilepress quant --model-path Qwen3-8B --save-path small --self-calibration

        tilepress quant --model-path Qwen3-8B --save-path small --size 4GB --head --embeddings

        torchrun --nproc_per_node 8 -m tilepress.quantize --model_path Qwen3-8B --save_path small --device cuda

        tilepress quant --model-path Qwen3-8B --save-path mine --recipe mine.toml

        tilepress quant --model-path Qwen3-8B --save-path Qwen3-8B-npu --for vendor --float down_proj

        tilepress quant --model-path Qwen3-32B --save-path Qwen3-32B-w8a8s --dtype bfloat16 --max-memory 14GB

    After Ctrl-C or a full disk the same command continues behind the last finished layer, and makes the same bytes.
    With other options it asks for --restart, which begins anew.
    """
    from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint, open_checkpoint
    from tilepress.checkpoint.targets import VENDOR, VLLM_STOCK, target_named
    from tilepress.distributed import launched_by_torchrun
    from tilepress.machine.device import resolve_device
    from tilepress.quantize import (
        choose_recipe,
        engine_of_tags,
        for_engine,
        kept_progress,
        measure_throughput,
        plan_quantization,
        quantize_checkpoint,
        quantize_under_torchrun,
        read_vendor_config,
        rehearse,
    )

    save_path = save_path.expanduser()
    if quant_type is not None and quant_type.lower() != "w8a8s":
        raise UsageError(f"--quant-type {quant_type}: w8a8s is the only one; `tilepress compress` makes w8a8sc of it")
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
    # Who types the vendor's line, with its words for type and model or device, wants what its engines load.
    # A recipe of the user's own decides for itself.
    typed = quant_type is not None and (model_type is not None or device.startswith("npu")) and recipe_path is None
    tagged, tags = engine_of_tags(tag or [])
    if tags:
        print_note(f"--tag {' '.join(tags)}: has no meaning here")
    if config_path is not None and recipe_path is not None:
        raise UsageError("--config-path and --recipe: give one of them")
    if engine is None and (typed or tagged or config_path is not None):
        engine = tagged or VENDOR.name
        print_note(f"the vendor's command line: made for its engines, as --for {engine}; --for tilepress for ours")
    target = resolve_device(device)
    source = open_checkpoint(chosen_model(model_argument, model_path))
    if isinstance(source, W8A8SCheckpoint) and not source.quantized_linears():
        source = FloatCheckpoint(source.path)  # W16A16S: float weights with zeros
    if not isinstance(source, FloatCheckpoint):
        raise UsageError(f"{source.path}: {source.kind} weights are quantized already; give the float model")
    if config_path is not None:
        vendors = read_vendor_config(config_path.expanduser(), source.shape)
        both = (*vendors.settings["float_linears"], *chosen.get("float_linears", ()))
        chosen = vendors.settings | chosen | {"float_linears": both}
        calib = calib or vendors.calibration
        if vendors.unused:
            print_note(f"{config_path}: these fields have no meaning here: {', '.join(vendors.unused)}")
    chosen = for_engine(engine, chosen)
    choice = choose_recipe(source.config, file=recipe_path, model_type=model_type)
    recipe = choice.recipe(chosen)
    print_recipe(choice)
    if trust_remote_code:
        print_note("Qwen3, Qwen2, Llama, Mistral and Phi-3 need no remote code; none is run")
    memory = None if max_memory is None else parse_bytes("--max-memory", max_memory)

    def before_work() -> None:
        needs = plan_quantization(source, recipe, save_path, target, memory, measure_throughput(target))
        needs.check()
        note_requirements(needs)

    quantize = quantize_under_torchrun if launched_by_torchrun() else quantize_checkpoint
    with noting_progress(lambda: kept_progress(save_path)), progress_bar("quantize") as progress:
        report = quantize(
            source,
            save_path,
            recipe,
            calibration=calib,
            device=device,
            before_work=before_work,
            rehearsal=lambda: rehearse(source, recipe, target),
            max_memory=memory,
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
        print_json(report.as_dict() | {"save_path": str(save_path), "recipe_name": choice.name})
        return
    rows = [
        ("W8A8S directory", str(save_path)),
        ("made for", target_named(recipe.engine).engines),
        ("compressed", f"{report.bits:.3f} bits a weight, as rounded"),
        ("zeros", f"{report.zeros:.1%}, as rounded"),
        *([("stay float", _named(kept))] if (kept := report.recipe.float_linears) else []),
        ("loss of weights and activations", f"{report.loss:.4f} nats a token, estimated"),
        ("calibration", f"{report.samples} x {report.sequence_length} tokens{_OF[report.text]}"),
    ]
    if (blocks := report.blocks) is not None:
        outcome = f"error of a layer's output times {blocks.ratio:.3f}, {sum(blocks.kept)} of {len(blocks.kept)} layers"
        if blocks.loss_before is not None and blocks.loss_after is not None:
            outcome += f"; {_divergence(blocks.loss_before, blocks.loss_after, kept=blocks.taken)}"
        rows.append(("trained integers", outcome))
    if (trained := report.distillation) is not None:
        rows.append(("distillation", _divergence(trained.loss_before, trained.loss_after, kept=trained.kept)))
    rows.append(("time", human_seconds(report.seconds)))
    print_table(rows)
    if recipe.engine == VLLM_STOCK.name:
        print_note(f"next, for vLLM without tilepress: tilepress export {save_path} -o {save_path}-int8")


def _named(linears: tuple[str, ...]) -> str:
    return f"{len(linears)} linears: {', '.join(linears[:3])}{' ...' if len(linears) > 3 else ''}"


def _divergence(before: float, after: float, *, kept: bool) -> str:
    """Return what a training made of the divergence from the float model."""
    return f"KL {before:.4f} to {after:.4f} nats{'' if kept else ', dropped: not lower'}"
