"""Quantization of a float checkpoint to a W8A8S directory, with one float decoder layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from tilepress.checkpoint import FloatCheckpoint
from tilepress.codec import core_count
from tilepress.distributed import BACKENDS, ProcessGroup, process_group
from tilepress.distributed.communicator import ALONE, Communicator, GroupCommunicator
from tilepress.errors import UsageError
from tilepress.jobs.atomic_directory import refuse_existing
from tilepress.machine.memory import Machine, machine_of
from tilepress.models.layer_inputs import FINAL_NORM
from tilepress.models.transformers_config import generation_config, model_config
from tilepress.quantize.calibration.documents import default_documents
from tilepress.quantize.calibration.records import read_documents
from tilepress.quantize.calibration.self_calibration import Author, self_calibration_tokens
from tilepress.quantize.calibration.sequences import token_sequences
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.context import Job
from tilepress.quantize.distillation.blocks import reconstruct
from tilepress.quantize.distillation.train import distil, refuse_one_sequence, sequences_used, training_order
from tilepress.quantize.estimate.plan import check_writing
from tilepress.quantize.estimate.settle import Settled, settle
from tilepress.quantize.estimate.stored_size import work_size
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.layerwise.hidden_states import FinalStates, HiddenStates
from tilepress.quantize.progress import Clock, Progress
from tilepress.quantize.quantized_model import CollectedModel
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.report import DEFAULT, FILE, SELF, LinearReport, QuantizationReport
from tilepress.quantize.result import collected_model, write_result
from tilepress.quantize.resume import FINISHED, WorkDirectory, fingerprint, is_begun, remove_finished, work_directory
from tilepress.quantize.rounding_pass import RoundingPass, result_stages
from tilepress.quantize.sensitivity_pass import Allocation, SensitivityPass
from tilepress.quantize.weight_check import check_weights
from tilepress.text import load_tokenizer


class WorkOptions(TypedDict, total=False):
    """Optional arguments of a quantization.

    calibration: a file for `read_documents`; without one, the text of `default_documents`, or what the model writes
    where the recipe says self_calibration.
    max_memory: bytes that may be resident in each process. A layer and its Hessians need most of them. Hidden states
    are kept in memory where they fit beside these, else in the work directory. With None they are kept in memory where
    they fit a quarter of the machine's. The output does not depend on max_memory, with one exception: where the recipe
    leaves distill_steps or block_steps open, a model that does not fit a quarter of max_memory is not trained. Steps
    that are asked for take what memory they need.
    restart: begin anew instead of resuming.
    before_work: called once source, text (or prompts) and recipe are known to be usable. rehearsal: called once all
    weights are checked too. An exception from either ends the call.
    """

    calibration: Path | None
    max_memory: int | None
    restart: bool
    before_work: Callable[[], None] | None
    rehearsal: Callable[[], None] | None


def quantize_checkpoint(
    source: FloatCheckpoint,
    out: Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    ranks: Communicator = ALONE,
    **options: Unpack[WorkOptions],
) -> QuantizationReport:
    """Quantize a float checkpoint into the W8A8S directory `out`, which appears whole or not at all.

    Finished stages are kept in `work_directory(out)` until `out` is complete. After an interruption the same call
    resumes behind the last finished layer and produces the same bytes. The same recipe, text and device give the same
    bytes. A text that the model writes itself is written by the first rank alone, and kept like a finished stage.

    device: a torch device such as "cpu" or "cuda:0". progress: called after each visit to a layer. ranks: the processes
    that share the quantization, each with its own work directory; the first one decides and writes, and all return the
    report. options: see WorkOptions.

    Raises QuantizationError; CheckpointError; UsageError where a tied embedding is to be quantized without the head,
    where there is a calibration file and self_calibration too, where work on `out` was begun with other inputs, or
    where memory or max_memory is too little.
    """
    if recipe.embeddings and source.shape.tied and not recipe.head:
        raise UsageError(
            f"{source.path}: the head is tied to the embedding and cannot stay float without it; quantize both, with "
            "--embeddings --head, or neither, with --no-embeddings --no-head"
        )
    calibration, max_memory, target = options.get("calibration"), options.get("max_memory"), torch.device(device)
    if recipe.self_calibration and calibration is not None:
        raise UsageError(
            f"--calib {calibration}: with self-calibration the model writes the text itself; leave --calib out, or "
            "take the file with --no-self-calibration"
        )
    remove_finished(out, ranks.rank)
    ranks.first(lambda: refuse_existing(out))
    settled, tokens = ranks.first(lambda: _settled(source, recipe, calibration, machine_of(target), max_memory))
    text = (
        Author(
            source,
            recipe.seed,
            target,
            longest=settled.size.length,
            before_reading=lambda: check_writing(source, target, max_memory),
        )
        if tokens is None
        else tokens
    )
    if (before_work := options.get("before_work")) is not None:
        ranks.first(before_work)
    if not is_begun(out):
        ranks.first(lambda: check_weights(source, recipe))
    if (rehearsal := options.get("rehearsal")) is not None:
        ranks.first(rehearsal)
    return quantize_tokens(
        source,
        out,
        recipe,
        settled,
        text,
        device=device,
        kind=SELF if tokens is None else DEFAULT if calibration is None else FILE,
        states_memory=settled.size.memory // (1 if max_memory is not None else ranks.local_world),
        restart=options.get("restart", False),
        progress=progress,
        ranks=ranks,
    )


@torch.no_grad()
def quantize_tokens(
    source: FloatCheckpoint,
    out: Path,
    recipe: Recipe,
    choice: Settled,
    text: Tensor | Author,
    *,
    device: str,
    kind: str = DEFAULT,
    states_memory: int,
    restart: bool = False,
    kept: bool = True,
    progress: Callable[[Progress], None] | None = None,
    ranks: Communicator = ALONE,
) -> QuantizationReport:
    """Do the work of `quantize_checkpoint` once all choices are settled.

    text: tokens int64 [samples, length], fewer than `choice` asks for where the text is short, or the model that writes
    them. kind: of the text, for the report. states_memory: bytes that hidden states may take. kept: after an error keep
    the finished stages and say where.
    """
    size = choice.size
    samples, length = (size.samples, size.length) if isinstance(text, Author) else text.shape
    settled = {
        "device": device,
        "distillation steps": choice.distill_steps,
        "steps of each layer's integers": choice.block_steps,
        "calibration tokens": [samples, length],
        "sensitivity tokens": [min(samples, size.sensitivity_samples), min(length, size.sensitivity_length)],
        "processes": ranks.world,
    }
    begun = fingerprint(source, recipe, _bytes(text), settled)
    with WorkDirectory(work_directory(out, ranks.rank), begun, restart=restart, kept=kept) as work:
        if ranks.writes:
            work.require(work_size(source.shape, choice.of(recipe), size))
        writing = samples if isinstance(text, Author) else 0
        clock = Clock(writing + visits(source, choice.of(recipe)), progress)
        tokens = (
            text
            if isinstance(text, Tensor)
            else ranks.first(lambda: self_calibration_tokens(text, work, clock, samples=samples, length=length))
        )
        job = Job(
            source=source,
            recipe=recipe,
            tokens=tokens,
            sensitivity_tokens=tokens[: size.sensitivity_samples, : size.sensitivity_length].contiguous(),
            decoder=LayerwiseDecoder(source, torch.device(device)),
            generator=torch.Generator().manual_seed(recipe.seed),
            work=work,
            clock=clock,
            states_memory=states_memory,
            ranks=ranks,
        )
        allocation = SensitivityPass(job).run()
        job = replace(job, recipe=allocation.recipe)
        final = RoundingPass(job, allocation.budget, source.path).run()
        report = _report(job, size, allocation, kind)
        made = _trained(job, final, choice, report) if choice.distill_steps or choice.block_steps else None
        report.seconds = job.clock.seconds()
        job.finish(FINISHED, visits=0)
        if ranks.writes:
            write_result(out, source, job.recipe, made or work, result_stages(job), report)
        return ranks.first(lambda: report)


def _settled(
    source: FloatCheckpoint, recipe: Recipe, calibration: Path | None, machine: Machine, max_memory: int | None
) -> tuple[Settled, Tensor | None]:
    """Return what the recipe leaves open, and the calibration's tokens int64 [samples, length].

    The tokens are None where the model writes them, as many as the size of the calibration asks for.
    """
    tokenizer = load_tokenizer(source.path, model_config(source.config, source.path))
    generation_config(source.path)  # it is copied to the result, and a broken one would make engines refuse that
    settled = settle(source, recipe, machine, max_memory)
    tokens = None
    if not recipe.self_calibration:
        documents = (
            default_documents(recipe.seed, tokenizer) if calibration is None else read_documents(calibration, tokenizer)
        )
        tokens = token_sequences(
            tokenizer,
            documents,
            samples=settled.size.samples,
            length=settled.size.length,
            vocabulary=source.shape.vocab,
            source="the calibration text" if calibration is None else f"{calibration}: the calibration text",
        )
        settled = settle(source, recipe, machine, max_memory, (len(tokens), tokens.shape[1]))
    if settled.distill_steps or settled.block_steps:
        refuse_one_sequence(settled.size.samples if tokens is None else len(tokens))
    return settled, tokens


def _bytes(text: Tensor | Author) -> bytes:
    return text.prompts() if isinstance(text, Author) else text.numpy().tobytes()


def visits(source: FloatCheckpoint, recipe: Recipe) -> int:
    """Visits to a layer, the head or the embedding, and steps of distillation. The recipe has its steps of training."""
    layers = 3 + bool(recipe.block_steps)
    others = 2 * recipe.head + recipe.has_own_embedding(source.shape) + (recipe.distill_steps or 0)
    return layers * source.shape.layers + others


def _trained(job: Job, share: HiddenStates, choice: Settled, report: QuantizationReport) -> CollectedModel | None:
    """Return the whole quantized model, in memory, with trained integers, scales, gains and biases. Completes `report`.

    The first rank trains; the others send it the hidden states that it asks for, and return None.
    """
    samples, steps = len(job.tokens), choice.distill_steps
    order = job.ranks.first(lambda: training_order(samples, steps, job.generator))
    final = FinalStates(share, job.decoder.device, job.ranks)
    if not job.ranks.writes:
        if steps:
            final.hand_over(sequences_used(samples, order))
        return None
    collected = collected_model(job.work, result_stages(job), job.recipe.activations, shared=job.shared)
    if FINAL_NORM.gain not in collected.gains:
        collected.add_float(FINAL_NORM.gain, job.decoder.load(FINAL_NORM.gain).cpu())
    if choice.block_steps:
        collected, report.blocks = reconstruct(job, collected, choice.block_steps)
    if not steps:
        return collected
    distilled, report.distillation = distil(
        job.decoder,
        collected,
        job.tokens,
        final,
        order,
        dtype=job.dtype,
        tick=job.clock.tick,
    )
    return distilled


def _report(job: Job, size: CalibrationSize, allocation: Allocation, kind: str) -> QuantizationReport:
    samples, length = job.tokens.shape
    fewer = (samples, length) != (size.samples, size.length)
    records = [job.work.record(stage) or {} for stage in result_stages(job)]
    return QuantizationReport(
        recipe=job.recipe,
        samples=samples,
        sequence_length=length,
        sensitivity_tokens=job.sensitivity_tokens.numel(),
        text=kind,
        limits=("text",) if fewer else size.limits,
        curve=allocation.curve,
        linears=[LinearReport(**linear) for record in records for linear in record["reports"]],
    )


def quantize_under_torchrun(
    source: FloatCheckpoint,
    out: Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[WorkOptions],
) -> QuantizationReport:
    """Run `quantize_checkpoint` on all processes of torchrun. Each reads `source`; the first writes `out`.

    device: "cpu", where each process takes a fair share of its host's cores, or "cuda", where each takes its own GPU.
    progress: called on rank 0 only. Raises the errors of `quantize_checkpoint`, UsageError for another device, and
    JobError where another process fails or is gone.
    """
    if device not in BACKENDS:
        raise UsageError(f"--device {device}: under torchrun choose cpu or cuda, and each process takes its own GPU")
    with process_group(device) as this:
        return quantize_checkpoint(
            source,
            out,
            recipe,
            device=_own_device(device, this),
            progress=progress if this.rank == 0 else None,
            ranks=GroupCommunicator(this),
            **options,
        )


def _own_device(device: str, this: ProcessGroup) -> str:
    if device == "cpu":
        # torchrun asks for one thread of each process where nobody set OMP_NUM_THREADS.
        torch.set_num_threads(max(1, core_count() // this.local_world))
        return device
    if this.local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"{this.local_world} processes on this host, which has {torch.cuda.device_count()} GPUs; "
            "start one process per GPU with --nproc_per_node"
        )
    torch.cuda.set_device(this.local_rank)
    return f"cuda:{this.local_rank}"
