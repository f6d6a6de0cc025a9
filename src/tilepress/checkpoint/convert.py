"""From one target's form of a W8A8S directory to another's, where no integer has to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tilepress.checkpoint.description import ACTIVATIONS, FLOAT, STATIC
from tilepress.checkpoint.open import open_checkpoint
from tilepress.checkpoint.targets import Target
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.tensors.quantized_linear import pack, round_input_scale
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8s_writer import W8A8SWriter
from tilepress.errors import CheckpointError, UsageError
from tilepress.models.architecture import HEAD


def convert_directory(
    source: str | Path, out: Path, target: Target, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the W8A8S directory `source` as `out` in the form of `target`, with the same integers and scales.

    progress: called with the number of linears done and of all. Raises UsageError where the target's engines cannot
    compute what the directory says, and CheckpointError.
    """
    checkpoint = open_checkpoint(source)
    if not isinstance(checkpoint, W8A8SCheckpoint):
        remedy = "quantize it" if checkpoint.kind == "float" else "decompress it to W8A8S"
        raise UsageError(f"{source}: is a {checkpoint.kind} directory; {remedy} first, and convert that")
    if not target.own:
        _check_computable(checkpoint, target)
    extra = checkpoint.description.extra | ({ACTIVATIONS: checkpoint.activations} if target.own else {})
    with W8A8SWriter(out, checkpoint, dtype=checkpoint.dtype, description=extra, target=target) as writer:
        for name in checkpoint.float_names():
            tensor = checkpoint.float_tensor(name)
            if target.own:
                writer.add_stored({name: tensor}, FLOAT)
            else:  # in the flavour: other engines would convert it without a word
                writer.add_float(name, tensor)
        if checkpoint.is_quantized(EMBEDDING):
            writer.add_embedding(checkpoint.embedding())
        prefixes = checkpoint.quantized_linears()
        for done, prefix in enumerate(prefixes, 1):
            linear = checkpoint.linear(prefix)
            if not target.own:
                _check_scale(checkpoint, prefix, linear.input_scale, target)
            writer.add_stored(pack(prefix, linear, checkpoint.dtype, wide_scale=target.own), linear.kind)
            checkpoint.release()
            if progress is not None:
                progress(done, len(prefixes))


def _check_computable(checkpoint: W8A8SCheckpoint, target: Target) -> None:
    again = f"quantize the float model with `tilepress quant --for {target.name}`"
    if checkpoint.activations != STATIC:
        raise UsageError(
            f"{checkpoint.path}: is made for activations {checkpoint.activations!r}, and {target.engines} clamp tokens "
            f"that need a scale of their own; {again}"
        )
    for prefix, name in ((HEAD.name, "head"), (EMBEDDING, "embedding")):
        if checkpoint.is_quantized(prefix) or (prefix == EMBEDDING and checkpoint.shares_table):
            raise UsageError(f"{checkpoint.path}: the {name} is integers, which {target.engines} do not take; {again}")
    if checkpoint.dtype not in target.dtypes:
        raise UsageError(
            f"{checkpoint.path}: is {checkpoint.dtype}, and {target.engines} take {' or '.join(target.dtypes)}; {again}"
        )


def _check_scale(checkpoint: W8A8SCheckpoint, prefix: str, scale: float, target: Target) -> None:
    """Engines round a wider input_scale, and deq_scale was computed with the one that it has."""
    try:
        held = round_input_scale(scale, checkpoint.dtype, f"{prefix}.input_scale") == scale
    except CheckpointError:
        held = False
    if not held:
        raise UsageError(
            f"{checkpoint.path}: {prefix}.input_scale is {scale}, which {checkpoint.dtype} does not hold, and "
            f"{target.engines} would round it; quantize the float model with `tilepress quant --for {target.name}`"
        )
