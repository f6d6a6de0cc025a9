"""A quantized directory in the format of compressed-tensors, which vLLM and others read without tilepress.

Read from vLLM's sources (CompressedTensorsW8A8Int8) and https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilepress.checkpoint.auxiliary import copy_auxiliary_files
from tilepress.checkpoint.description import STATIC, W8A8_DYNAMIC
from tilepress.checkpoint.open import open_checkpoint
from tilepress.checkpoint.safetensors.writer import name_shards
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.tensors.quantized_linear import QuantizedLinear
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint, folded_bias
from tilepress.errors import UsageError
from tilepress.jobs.atomic_directory import create_staging, discard, publish, save_tensors
from tilepress.jobs.json_files import write_object
from tilepress.models.architecture import HEAD, float_tensors

COMPRESSED_TENSORS = "compressed-tensors"
SHARD_BYTES = 2 << 30
_INT8 = {"num_bits": 8, "type": "int"}
# The activations of a directory, as compressed-tensors describes them.
_ACTIVATIONS: dict[str, dict[str, Any]] = {
    STATIC: {"strategy": "tensor", "symmetric": False, "dynamic": False},
    DYNAMIC: {"strategy": "token", "symmetric": False, "dynamic": True},
    W8A8_DYNAMIC: {"strategy": "token", "symmetric": True, "dynamic": True},
}


def export_directory(
    source: str | Path,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the W8A8S directory `source` as `out` for stock vLLM; integers stay what they are, scales nearly.

    shard_bytes: tensors in memory before a file is written. progress: called with the number of linears done and of
    all. Raises UsageError where the directory has an integer head or embedding or activations that the format does not
    know, and CheckpointError.
    """
    checkpoint = open_checkpoint(source)
    if not isinstance(checkpoint, W8A8SCheckpoint):
        remedy = "quantize it" if checkpoint.kind == "float" else "decompress it (`tilepress decompress`)"
        raise UsageError(f"{source}: is a {checkpoint.kind} directory; {remedy} first, and export that")
    mode = _mode(checkpoint)
    _check_floats(checkpoint)
    staging = create_staging(out)
    try:
        _write_shards(staging, _tensors(checkpoint, mode, progress), shard_bytes)
        write_object(staging / "config.json", _config(checkpoint, mode))
        copy_auxiliary_files(checkpoint.path, staging)
    except BaseException:
        discard(staging)
        raise
    publish(staging, out)


def _mode(checkpoint: W8A8SCheckpoint) -> str:
    """Return one of _ACTIVATIONS."""
    for prefix, name in ((HEAD.name, "head"), (EMBEDDING, "embedding")):
        if checkpoint.is_quantized(prefix) or (prefix == EMBEDDING and checkpoint.shares_table):
            raise UsageError(
                f"{checkpoint.path}: the {name} is integers, which {COMPRESSED_TENSORS} does not have; quantize the "
                "float model with --no-head --no-embeddings"
            )
    kinds = {checkpoint.linear(prefix).kind for prefix in checkpoint.quantized_linears()}
    if W8A8_DYNAMIC in kinds:
        if len(kinds) > 1:
            raise UsageError(f"{checkpoint.path}: has {W8A8_DYNAMIC} beside others; one kind can be exported")
        return W8A8_DYNAMIC
    if checkpoint.activations not in _ACTIVATIONS:
        raise UsageError(
            f"{checkpoint.path}: is made for activations {checkpoint.activations!r}, which {COMPRESSED_TENSORS} does "
            "not have; quantize the float model with --activations dynamic or static"
        )
    return checkpoint.activations


def _check_floats(checkpoint: W8A8SCheckpoint) -> None:
    known = float_tensors(checkpoint.architecture, checkpoint.shape)
    for name in checkpoint.float_names():
        if name not in known and bool(checkpoint.float_tensor(name).any()):
            raise UsageError(f"{checkpoint.path}: has {name}, for which other engines have no place")
    for prefix in checkpoint.quantized_linears():
        if f"{prefix}.bias" not in known and _bias(checkpoint.linear(prefix)) is not None:
            raise UsageError(
                f"{checkpoint.path}: {prefix}.quant_bias has a bias, for which other engines have no place"
            )


def _config(checkpoint: W8A8SCheckpoint, mode: str) -> dict[str, Any]:
    floats = [name for name in checkpoint.linears() if not checkpoint.is_quantized(name)]
    config = {key: value for key, value in checkpoint.config.items() if key != "quantize"}
    return config | {
        "tie_word_embeddings": checkpoint.shape.tied,
        "quantization_config": {
            "quant_method": COMPRESSED_TENSORS,
            "format": "int-quantized",
            "quantization_status": "compressed",
            "ignore": list(dict.fromkeys([*floats, HEAD.name])),
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {**_INT8, "strategy": "channel", "symmetric": True, "dynamic": False},
                    "input_activations": {**_INT8, **_ACTIVATIONS[mode]},
                }
            },
        },
    }


def _tensors(
    checkpoint: W8A8SCheckpoint, mode: str, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, Tensor]]:
    known = float_tensors(checkpoint.architecture, checkpoint.shape)
    for name in checkpoint.float_names():
        if name in known:
            yield name, checkpoint.float_tensor(name)
    prefixes = checkpoint.quantized_linears()
    for done, prefix in enumerate(prefixes, 1):
        linear = checkpoint.linear(prefix)
        yield from _of_linear(prefix, linear, mode, getattr(torch, checkpoint.dtype))
        if progress is not None:
            progress(done, len(prefixes))


def _of_linear(prefix: str, linear: QuantizedLinear, mode: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield a linear's tensors. Its bias is a float again."""
    yield f"{prefix}.weight", linear.weight
    yield f"{prefix}.weight_scale", linear.weight_scale()[:, None].contiguous()
    if mode == STATIC:
        yield f"{prefix}.input_scale", torch.tensor([linear.input_scale])
        yield f"{prefix}.input_zero_point", torch.tensor([linear.input_offset], dtype=torch.int8)
    if (bias := _bias(linear)) is not None:
        yield f"{prefix}.bias", bias.to(dtype)


def _bias(linear: QuantizedLinear) -> Tensor | None:
    bias = folded_bias(linear)
    return bias if bool((bias.abs() > linear.deq_scale).any()) else None  # what rounding leaves of none is less


def _write_shards(staging: Path, tensors: Iterator[tuple[str, Tensor]], shard_bytes: int) -> None:
    """Write the tensors in files of about `shard_bytes`."""
    shards: list[list[str]] = []
    total, pending, nbytes = 0, dict[str, Tensor](), 0

    def close() -> None:
        nonlocal pending, nbytes
        save_tensors(pending, staging / f"{len(shards)}.shard")
        shards.append(list(pending))
        pending, nbytes = {}, 0

    for name, tensor in tensors:
        if pending and nbytes + tensor.nbytes > shard_bytes:
            close()
        pending[name] = tensor.contiguous()
        nbytes += tensor.nbytes
        total += tensor.nbytes
    close()
    name_shards(staging, shards, "model", total)
