"""The way from a float checkpoint to a W8A8S directory, one float decoder layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
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
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.calibration.text import default_documents, read_documents, token_sequences
from tilepress.quantize.context import Job
from tilepress.quantize.distillation.train import distil, refuse_one_sequence, sequences_used, training_order
from tilepress.quantize.estimate.settle import settle
from tilepress.quantize.estimate.stored_size import work_size
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.layerwise.hidden_states import FinalStates, HiddenStates
from tilepress.quantize.progress import Clock, Progress
from tilepress.quantize.quantized_model import CollectedModel
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.report import LinearReport, QuantizationReport
from tilepress.quantize.result import collected_model, write_result
from tilepress.quantize.resume import FINISHED, WorkDirectory, fingerprint, is_begun, remove_finished, work_directory
from tilepress.quantize.rounding_pass import RoundingPass, result_stages
from tilepress.quantize.sensitivity_pass import Allocation, SensitivityPass
from tilepress.quantize.weight_check import check_weights
from tilepress.text import load_tokenizer


class WorkOptions(TypedDict, total=False):
    """What a quantization is given beside source, recipe and device; all may be left out.

    calibration: a file for `read_documents`; without one, docstrings of Python's standard library.
    max_memory: bytes that may be resident in each process, of which a layer and its Hessians need most; hidden states
    between the layers are in memory where they fit beside that, and else in the work directory. None: where they fit a
    quarter of the machine's memory. The bytes that are made do not depend on it, except that without distill_steps in
    the recipe a model is not distilled that does not fit a quarter of it.
    restart: begin anew instead of resuming.
    before_work: called when source, text and recipe are found to be usable; rehearsal: when all weights are, too. What
    they raise ends the call.
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

    What is done is kept in `work_directory(out)` until `out` is there: the same call goes on after the last finished
    layer and ends in the same bytes, however it ended before.

    ranks: where several processes do it, each with a work directory of its own; the first one decides and writes, and
    all return the report. The same recipe, text and device give the same bytes. options: see WorkOptions. Raises
    QuantizationError, CheckpointError; UsageError where an embedding is to be quantized without the head that is tied
    to it, other work on `out` is there or max_memory is too little.
    """
    if recipe.embeddings and source.shape.tied and not recipe.head:
        raise UsageError(
            f"{source.path}: the head is tied to the embedding and cannot stay float without it; quantize both, with "
            "--embeddings --head, or neither, with --no-embeddings --no-head"
        )
    max_memory = options.get("max_memory")
    remove_finished(out, ranks.rank)
    ranks.first(lambda: refuse_existing(out))
    size, tokens, steps = ranks.first(
        lambda: _settled(source, recipe, options.get("calibration"), machine_of(torch.device(device)), max_memory)
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
        size,
        tokens,
        steps,
        device=device,
        states_memory=size.memory if max_memory is not None else size.memory // ranks.local_world,
        restart=options.get("restart", False),
        progress=progress,
        ranks=ranks,
    )


@torch.no_grad()
def quantize_tokens(
    source: FloatCheckpoint,
    out: Path,
    recipe: Recipe,
    size: CalibrationSize,
    tokens: Tensor,
    steps: int,
    *,
    device: str,
    states_memory: int,
    restart: bool = False,
    kept: bool = True,
    progress: Callable[[Progress], None] | None = None,
    ranks: Communicator = ALONE,
) -> QuantizationReport:
    """What `quantize_checkpoint` does when everything is settled.

    tokens int64 [samples, length], as many as there were of `size`; steps: of distillation; states_memory: bytes that
    hidden states may take; kept: errors say where the unfinished work is.
    """
    sensitivity_tokens = tokens[: size.sensitivity_samples, : size.sensitivity_length].contiguous()
    settled = {
        "device": device,
        "distillation steps": steps,
        "sensitivity tokens": list(sensitivity_tokens.shape),
        "processes": ranks.world,
    }
    begun = fingerprint(source, recipe, tokens, settled)
    with WorkDirectory(work_directory(out, ranks.rank), begun, restart=restart, kept=kept) as work:
        if ranks.writes:
            work.require(work_size(source.shape, recipe, size))
        job = Job(
            source=source,
            recipe=recipe,
            tokens=tokens,
            sensitivity_tokens=sensitivity_tokens,
            decoder=LayerwiseDecoder(source, torch.device(device)),
            generator=torch.Generator().manual_seed(recipe.seed),
            work=work,
            clock=Clock(visits(source, recipe) + steps, progress),
            states_memory=states_memory,
            ranks=ranks,
        )
        allocation = SensitivityPass(job).run()
        final = RoundingPass(job, allocation.budget, source.path).run()
        report = _report(job, size, allocation)
        made = _distilled(job, final, steps, report) if steps else None
        report.seconds = job.clock.seconds()
        job.finish(FINISHED, visits=0)
        if ranks.writes:
            write_result(out, source, recipe, made or work, result_stages(job), report)
        return ranks.first(lambda: report)


def _settled(
    source: FloatCheckpoint, recipe: Recipe, calibration: Path | None, machine: Machine, max_memory: int | None
) -> tuple[CalibrationSize, Tensor, int]:
    """What is chosen where the recipe leaves it open; the tokens int64 [samples, length]; the steps of distillation."""
    tokenizer = load_tokenizer(source.path, model_config(source.config, source.path))
    generation_config(source.path)  # it is copied: an engine would refuse the result for it
    documents = default_documents(recipe.seed) if calibration is None else read_documents(calibration, tokenizer)
    wanted = settle(source, recipe, machine, max_memory).size
    tokens = token_sequences(
        tokenizer,
        documents,
        samples=wanted.samples,
        length=wanted.length,
        vocabulary=source.shape.vocab,
        source="the calibration text" if calibration is None else f"{calibration}: the calibration text",
    )
    settled = settle(source, recipe, machine, max_memory, (len(tokens), tokens.shape[1]))
    if settled.distill_steps:
        refuse_one_sequence(tokens)
    return settled.size, tokens, settled.distill_steps


def visits(source: FloatCheckpoint, recipe: Recipe) -> int:
    """Visits to a layer, the head or the embedding before any distillation."""
    return 3 * source.shape.layers + 2 * recipe.head + recipe.has_own_embedding(source.shape)


def _distilled(job: Job, share: HiddenStates, steps: int, report: QuantizationReport) -> CollectedModel | None:
    """The whole quantized model in memory, its scales, gains and biases trained. `report` is completed.

    The first rank does it, to which the others hand what it asks for.
    """
    samples = len(job.tokens)
    order = job.ranks.first(lambda: training_order(samples, steps, job.generator))
    final = FinalStates(share, job.decoder.device, job.ranks)
    if not job.ranks.writes:
        final.hand_over(sequences_used(samples, order))
        return None
    collected = collected_model(job.work, result_stages(job), job.recipe.activations, shared=job.shared)
    if FINAL_NORM.gain not in collected.gains:
        collected.add_float(FINAL_NORM.gain, job.decoder.load(FINAL_NORM.gain).cpu())
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


def _report(job: Job, size: CalibrationSize, allocation: Allocation) -> QuantizationReport:
    samples, length = job.tokens.shape
    fewer = (samples, length) != (size.samples, size.length)
    records = [job.work.record(stage) or {} for stage in result_stages(job)]
    return QuantizationReport(
        recipe=job.recipe,
        samples=samples,
        sequence_length=length,
        sensitivity_tokens=job.sensitivity_tokens.numel(),
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
    """`quantize_checkpoint` on all processes, which read `source` each; the first reads the text and writes `out`.

    device: "cpu", where each process takes a fair share of its host's cores, or "cuda", a GPU a process. progress:
    called on rank 0 only. Raises what `quantize_checkpoint` does, UsageError for another device, and JobError where
    another process fails or is gone.
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
            "start one a GPU with --nproc_per_node"
        )
    torch.cuda.set_device(this.local_rank)
    return f"cuda:{this.local_rank}"
