"""The output directory, made from the stages of the second pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from tilepress.checkpoint import EMBEDDING, FloatCheckpoint, QuantizedEmbedding, W8A8SWriter
from tilepress.checkpoint.description import ACTIVATIONS, CODING, FLOAT
from tilepress.checkpoint.targets import target_named
from tilepress.checkpoint.tensors.quantized_linear import PARAMETERS, unpack
from tilepress.codec import TILES
from tilepress.quantize.estimate.stored_size import stays_float
from tilepress.quantize.quantized_model import CollectedModel
from tilepress.quantize.recipe.recipe import Recipe
from tilepress.quantize.report import QuantizationReport
from tilepress.quantize.resume import WorkDirectory

# Rows of a float tensor that are copied at a time.
ROWS = 8192


def write_result(
    out: Path,
    source: FloatCheckpoint,
    recipe: Recipe,
    made: WorkDirectory | CollectedModel,
    stages: list[str],
    report: QuantizationReport,
) -> None:
    """Write the W8A8S directory `out`: the quantized tensors, from `made`, and the tensors of `source` that stay float.

    made: the work directory with `stages`, or a distilled model.

    Raises CheckpointError as W8A8SWriter does.
    """
    description = {ACTIVATIONS: recipe.activations} | ({} if recipe.coding == TILES else {CODING: recipe.coding})
    with W8A8SWriter(
        out, source, dtype=recipe.dtype, description=description, target=target_named(recipe.engine)
    ) as writer:
        if isinstance(made, CollectedModel):
            made.write(writer)
            for name, count in made.flushed.items():
                writer.count_flushed(name, count)
        else:
            for stage in stages:
                record = made.record(stage) or {}
                writer.add_file(made.file(stage), record["types"], record["flushed"])
        for name in source.names():
            if not name.startswith("model.layers.") and stays_float(name, recipe) and not writer.has(name):
                writer.add_float_rows(name, source.stored(name).shape, _rows(source, name))
        writer.add_report(report.as_dict())


def _rows(source: FloatCheckpoint, name: str) -> Iterator[Tensor]:
    for start in range(0, source.stored(name).shape[0], ROWS):
        yield source.read(name, start, start + ROWS)


def collected_model(work: WorkDirectory, stages: list[str], activations: str, *, shared: bool) -> CollectedModel:
    """Load all that the stages hold into memory. activations, shared: as in CollectedModel."""
    model = CollectedModel(activations, shared)
    for stage in stages:
        record = work.record(stage) or {}
        types = record["types"]
        model.flushed |= record["flushed"]
        stored = work.tensors(stage)
        tensors = {name: stored.read(name) for name in stored}
        if stage == EMBEDDING:
            model.add_embedding(
                QuantizedEmbedding(tensors[f"{EMBEDDING}.weight"], tensors[f"{EMBEDDING}.weight_scale"])
            )
            continue
        for name, kind in types.items():
            prefix, _, leaf = name.rpartition(".")
            if kind == FLOAT:
                model.add_float(name, tensors[name])
            elif leaf == "weight":
                parts = {part: tensors[f"{prefix}.{part}"] for part in PARAMETERS}
                model.add_linear(prefix, replace(unpack(prefix, parts), kind=kind))
    return model
