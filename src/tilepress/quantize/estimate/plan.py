"""Estimate of what a quantization needs of this machine, from the headers of the model alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from tilepress.checkpoint import FloatCheckpoint, ModelShape
from tilepress.checkpoint.auxiliary import auxiliary_files
from tilepress.machine.memory import available_bytes, machine_of
from tilepress.machine.requirements import DISK_SPEED, Memory, Requirements, disk
from tilepress.models.flops import block_work, distillation_work, forward_work, sensitivity_work, statistics_work
from tilepress.models.layer_inputs import FEEDS
from tilepress.quantize.calibration.self_calibration import LONGEST_ANSWER, writing_dtype
from tilepress.quantize.calibration.size import SHORTEST, CalibrationSize
from tilepress.quantize.distillation.blocks import TOKENS
from tilepress.quantize.estimate.memory import peak_memory, writing_memory
from tilepress.quantize.estimate.settle import settle
from tilepress.quantize.estimate.stored_size import floats_size, w8a8s_size, work_size
from tilepress.quantize.estimate.throughput import (
    Throughput,
    cholesky_work,
    inverse_work,
    refinement_work,
    rounding_work,
)
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.resume import work_directory

# The source is read forward, backward, and once more to be quantized.
READINGS = 3
# Each input is factored for its column scales and for the rounding, in both passes; the last factor is inverted.
FACTORS = 4
# The head is mostly rounded a second time, to meet its bits.
HEAD_ROUNDINGS = 2
# Floating-point operations of a product that take as long as the search for the bits of one row of a group. Measured:
# 73 s for 339 thousand rows on two cores that multiply at 140 GFLOP/s.
SEARCH_WORK = 3e7

# Time of a token of the model's own text, in that of its products, for keys and values and for answers that end early:
# SmolLM2 writes 80 tokens in a second of a core that multiplies at 70 GFLOP/s.
WRITING = 3

# What makes a quantization smaller, in the order in which it is tried: what costs least quality first. Without
# distillation there are no steps of a layer's integers either, where they are left open.
_SMALLER: tuple[Callable[[Recipe], Recipe], ...] = (
    lambda recipe: replace(recipe, distill_steps=0, block_steps=0 if recipe.block_steps else recipe.block_steps),
    lambda recipe: replace(recipe, sequence_length=SHORTEST),
    lambda recipe: replace(recipe, samples=32),
)
_OPTIONS = ("distill_steps", "block_steps", "sequence_length", "samples")


def plan_quantization(
    source: FloatCheckpoint,
    recipe: Recipe,
    out: Path,
    device: torch.device,
    max_memory: int | None,
    throughput: Throughput,
) -> Requirements:
    """Estimate peak memory, disk, time and size of `quantize_checkpoint` with these arguments. Reads no weight.

    max_memory: bytes, or None. throughput: from `measure_throughput`. Raises UsageError where max_memory is too little.
    """
    choice = settle(source, recipe, machine_of(device), max_memory)
    settled, size = choice.of(recipe), choice.size
    stored = sum(tensor.nbytes for _, tensor in source.inventory())
    floats = floats_size(source, recipe)
    output = w8a8s_size(source, recipe) + sum(file.stat().st_size for file in auxiliary_files(source.path))
    available = _available(device)
    peak = peak_memory(source.shape, settled, size)
    memory = Memory(peak, available, _remedy(source, recipe, device, available))
    if recipe.self_calibration:
        memory = max(memory, memory_to_write(source, device, max_memory), key=lambda memory: memory.needed)
    folder = out.absolute().parent
    choose = "write to another disk with --save-path"
    work = work_size(source.shape, settled, size)
    kept = sum(file.stat().st_size for file in work_directory(out).glob("*"))  # of a run that was cut short
    computing = estimated_seconds(source.shape, settled, size, throughput)
    seconds = computing + (READINGS * stored + work + floats) / DISK_SPEED
    return Requirements(
        work="quant",
        memory=memory,
        # Rounded integers are linked from the work directory into the output; tensors that stay float are in it alone.
        disks=(
            disk(
                "the work and the W8A8S directory",
                folder,
                max(0, work + floats - kept),
                f"{choose}, or use fewer --samples",
            ),
        ),
        seconds=seconds,
        output=output,
    )


def memory_to_write(source: FloatCheckpoint, device: torch.device, max_memory: int | None) -> Memory:
    """Return the memory in which the model writes its calibration text, within max_memory bytes."""
    available = _available(device) if max_memory is None else min(max_memory, _available(device))
    return Memory(
        writing_memory(source.shape, writing_dtype(source, device).itemsize),
        available,
        "self-calibration has the whole float model in memory: give a text with --calib, or take the default one with "
        "--no-self-calibration",
    )


def check_writing(source: FloatCheckpoint, device: torch.device, max_memory: int | None) -> None:
    """Raises UsageError where the model does not fit to write its calibration text."""
    needed = memory_to_write(source, device, max_memory)
    Requirements("self-calibration", needed, disks=(), seconds=None, output=0).check()


def _available(device: torch.device) -> int:
    """Available bytes of host or device, whichever has fewer: the device has float layers, the host the results."""
    if device.type == "cpu":
        return available_bytes()
    free, _ = getattr(torch, device.type).mem_get_info(device)
    return min(available_bytes(), int(free))


def _remedy(source: FloatCheckpoint, recipe: Recipe, device: torch.device, available: int) -> str:
    """Return options that make the quantization fit, or the memory that the smallest one takes."""

    def peak(smaller: Recipe) -> int:
        choice = settle(source, smaller, machine_of(device), None)
        settled = choice.of(smaller)
        return peak_memory(source.shape, settled, replace(choice.size, memory=0))

    least, needed = recipe, peak(recipe)
    for shrink in _SMALLER:
        if needed <= available:
            break
        tried = shrink(least)
        if (its := peak(tried)) < needed:
            least, needed = tried, its
    options = [
        f"--{name.replace('_', '-')} {getattr(least, name)}"
        for name in _OPTIONS
        if getattr(least, name) != getattr(recipe, name)
    ]
    if needed > available:
        return f"free memory, or use a machine with {needed / 1e9:.1f} GB: less is not enough for a layer of this model"
    return " ".join(["use", *options, f"--max-memory {available // 10**7 / 100:.2f}GB"])


def estimated_seconds(shape: ModelShape, recipe: Recipe, size: CalibrationSize, throughput: Throughput) -> float:
    """Seconds of the whole quantization without reading and writing, with the recipe's steps of training."""
    products = size.samples * size.length * statistics_work(shape, size.length)
    sensitivity_tokens = size.sensitivity_samples * size.sensitivity_length
    products += sensitivity_tokens * sensitivity_work(shape, size.sensitivity_length)
    if recipe.self_calibration:
        head = 2.0 * shape.vocab * shape.hidden
        products += WRITING * size.samples * size.length * (forward_work(shape, LONGEST_ANSWER) + head)
    products += (recipe.distill_steps or 0) * size.length * distillation_work(shape, size.length)
    if recipe.block_steps:  # and a forward pass of the float model and of the quantized one
        states = size.samples * size.length
        products += recipe.block_steps * TOKENS * block_work(shape, min(size.length, TOKENS))
        products += 2 * states * forward_work(shape, size.length)
    factors = rounding = 0.0
    for feed in FEEDS:
        columns = shape.linear(feed.consumers[0])[1]
        rows = sum(shape.linear(consumer)[0] for consumer in feed.consumers)
        products += shape.layers * SEARCH_WORK * rows
        factors += shape.layers * (FACTORS * cholesky_work(columns) + inverse_work(columns))
        rounding += shape.layers * rounding_work(rows, columns, row_feedback=True)
        rounding += shape.layers * refinement_work(rows, columns, recipe.sweeps(columns))
    if recipe.head:
        products += SEARCH_WORK * shape.vocab
        factors += FACTORS * cholesky_work(shape.hidden) + inverse_work(shape.hidden)
        rounding += HEAD_ROUNDINGS * rounding_work(shape.vocab, shape.hidden)
        rounding += HEAD_ROUNDINGS * refinement_work(shape.vocab, shape.hidden, recipe.sweeps(shape.hidden))
    if recipe.has_own_embedding(shape):
        products += SEARCH_WORK * shape.vocab
    return products / throughput.product + factors / throughput.factor + rounding / throughput.rounding
