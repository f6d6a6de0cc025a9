"""A decoder layer with its inputs scaled column by column, computing the same function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.quantize.hessian import factorize
from tilepress.quantize.smoothing import (
    column_scales,
    limit_reach,
    representable_scales,
    rows_of_value_heads,
    share_over_query_heads,
)
from tilepress.quantize.statistics import READERS, InputStatistics

# The norm whose gain produces an input, and the projection whose rows do.
NORM_BEFORE = {"qkv": "input_layernorm", "gate_up": "post_attention_layernorm"}
PROJECTION_BEFORE = {"o": "self_attn.v_proj", "down": "mlp.up_proj"}


@dataclass(frozen=True)
class FoldedLayer:
    """tensors: the layer's parameters by their name inside the layer, float32, after the folds.
    statistics: of the scaled inputs. row_scales: by what the rows of v_proj and up_proj were divided.
    """

    tensors: dict[str, Tensor]
    statistics: dict[str, InputStatistics]
    row_scales: dict[str, Tensor]


def mix_scales(
    statistics: Mapping[str, InputStatistics], damping: float, where: str, *, heads: int, kv_heads: int
) -> dict[str, Tensor]:
    """The column scales of the four inputs; those of o_proj's input shared over the query heads of a kv head."""
    scales = {}
    for name, seen in statistics.items():
        cost = factorize(seen.hessian, damping, f"{where}.{name}").cost_by_column()
        scales[name] = column_scales(cost, seen.largest())
    scales["down"] = limit_reach(scales["down"], statistics["down"].largest())
    scales["o"] = share_over_query_heads(scales["o"], heads, kv_heads)
    return scales


def fold(
    tensors: Mapping[str, Tensor],
    statistics: Mapping[str, InputStatistics],
    scales: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    heads: int,
    kv_heads: int,
) -> FoldedLayer:
    """Divide each input by its scales and multiply the columns of the linears that read it.

    norm -> q, k, v; v -> o; norm -> gate, up; up -> down. Norm gains come out exact in `dtype`.
    `tensors` is left as it is.
    """
    folded = {name: tensor.clone() for name, tensor in tensors.items()}
    applied = dict(scales)
    row_scales = {}
    for name, norm in NORM_BEFORE.items():
        gain = f"{norm}.weight"
        folded[gain], applied[name] = representable_scales(folded[gain], scales[name], dtype)
    for name, projection in PROJECTION_BEFORE.items():
        rows = rows_of_value_heads(scales[name], heads, kv_heads) if name == "o" else scales[name]
        row_scales[projection] = rows
        folded[f"{projection}.weight"] /= rows[:, None]
        if f"{projection}.bias" in folded:
            folded[f"{projection}.bias"] /= rows
    for name, readers in READERS.items():
        for reader in readers:
            folded[f"{reader}.weight"] *= applied[name]
    return FoldedLayer(folded, {name: seen.divided(applied[name]) for name, seen in statistics.items()}, row_scales)
