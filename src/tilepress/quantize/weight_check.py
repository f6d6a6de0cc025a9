"""A check of all weights before a quantization, for values that would end it hours later."""

from __future__ import annotations

import torch

from tilepress.checkpoint import FloatCheckpoint
from tilepress.errors import QuantizationError
from tilepress.finite import is_finite
from tilepress.quantize.estimate.stored_size import stays_float
from tilepress.quantize.recipe.recipe import Recipe

# Values in memory at a time.
VALUES = 1 << 25


def check_weights(source: FloatCheckpoint, recipe: Recipe) -> None:
    """Raises QuantizationError, naming file and tensor, for values that are NaN or infinite.

    Also for values that the recipe's dtype cannot hold, in tensors that stay float. Reads everything once: 16 GB take
    some ten seconds beside the reading itself.
    """
    stored_type: torch.dtype = getattr(torch, recipe.dtype)
    limit = torch.finfo(stored_type).max
    for name in source.names():
        stored = source.stored(name)
        rows = max(1, VALUES // max(1, stored.nbytes // stored.dtype.itemsize // stored.shape[0]))
        for start in range(0, stored.shape[0], rows):
            part = source.read(name, start, start + rows)
            if not is_finite(part):
                bad = part.numel() - int(part.isfinite().sum())
                raise QuantizationError(
                    f"{stored.file}: {name}: {bad} of the values from row {start} on are NaN or infinite; the source "
                    "checkpoint is damaged, get it again"
                )
            if stays_float(name, recipe) and float(part.abs().max()) > limit:
                remedy = "use --dtype bfloat16" if recipe.dtype == "float16" else "check the source checkpoint"
                raise QuantizationError(
                    f"{stored.file}: {name} has values up to {float(part.abs().max()):g}, which {recipe.dtype} cannot "
                    f"hold; {remedy}"
                )
