"""Writing one part of a W8A8SC directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tilepress.checkpoint.descriptions import W8A8SC, write_description
from tilepress.checkpoint.embedding import EMBEDDING
from tilepress.checkpoint.rank import Rank
from tilepress.checkpoint.staging import save_tensors, writing

WEIGHTS = "quant_model_weight_w8a8sc.safetensors"


def write_part(
    source: Rank, out: Path, *, description: Mapping[str, Any], step: Callable[[], None] | None = None
) -> None:
    """Write what `source` holds as `part{rank}-of-{tp}` into the directory `out`.

    description: its global keys. step: called after each compressed linear. Memory: the compressed tensors of the part;
    what lies ready in the source is mapped. Raises CheckpointError and BitstreamError.
    """
    tensors: dict[str, Tensor] = {}
    types: dict[str, str] = {}
    for module in source.modules():
        for name, kind, tensor in source.entries(module):
            tensors[name] = tensor
            types[name] = kind
        if step is not None and source.is_quantized(module) and module != EMBEDDING:
            step()
    part = out / f"part{source.rank}-of-{source.tp}"
    with writing(out, sum(tensor.nbytes for tensor in tensors.values())):
        part.mkdir()
        save_tensors(tensors, part / WEIGHTS)
        write_description(part, W8A8SC, types, dict(description))
