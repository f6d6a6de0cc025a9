"""Scaling of a decoder layer's inputs column by column, without changing the function that it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tilepress.checkpoint.tensors.activation_mode import mode_of_input
from tilepress.models.layer_inputs import FEEDS, Feed, Norm, Projection
from tilepress.quantize.statistics.hessian import factorize
from tilepress.quantize.statistics.input_statistics import InputStatistics
from tilepress.quantize.transforms.column_scales import (
    column_scales,
    representable_scales,
    rows_of_value_heads,
    share_over_query_heads,
    within_range,
)


@dataclass(frozen=True)
class FoldedLayer:
    """tensors: the layer's parameters by their name inside the layer, float32, after the folds.

    statistics: of the scaled inputs. row_scales: the divisors of the rows of v_proj and up_proj.
    """

    tensors: dict[str, Tensor]
    statistics: dict[str, InputStatistics]
    row_scales: dict[str, Tensor]


def mix_scales(
    statistics: Mapping[str, InputStatistics],
    damping: float,
    where: str,
    *,
    heads: int,
    kv_heads: int,
    activations: str,
    feeds: Sequence[Feed] = FEEDS,
) -> dict[str, Tensor]:
    """Return column scales [k] of each input by its name, such that `fold` can be exact.

    activations: as in Recipe. feeds: the inputs of quantized linears; those of the others have scales of 1.
    """
    scales = {}
    for feed in FEEDS:
        seen = statistics[feed.name]
        if feed not in feeds:
            scales[feed.name] = torch.ones_like(seen.low)
            continue
        cost = factorize(seen.hessian, damping, f"{where}.{feed.name}").cost_by_column()
        mixed = column_scales(cost, seen.largest(), mode_of_input(activations, massive=feed.massive))
        if isinstance(feed.source, Projection) and feed.source.by_kv_head:
            mixed = share_over_query_heads(mixed, heads, kv_heads)
        scales[feed.name] = within_range(mixed, seen.fewer_rows())
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

    The division is folded into each input's source. Norm gains come out exact in `dtype`. The linears and the
    statistics are changed in place: copies of a layer and its Hessians would take gigabytes.
    """
    folded = dict(tensors)
    applied = dict(scales)
    row_scales = {}
    for feed in FEEDS:
        name, source = feed.name, feed.source
        if isinstance(source, Norm):
            folded[source.gain], applied[name] = representable_scales(folded[source.gain], scales[name], dtype)
        else:
            rows = rows_of_value_heads(scales[name], heads, kv_heads) if source.by_kv_head else scales[name]
            row_scales[source.name] = rows
            folded[f"{source.name}.weight"] /= rows[:, None]
            if f"{source.name}.bias" in folded:
                folded[f"{source.name}.bias"] /= rows
        for consumer in feed.consumers:
            folded[f"{consumer}.weight"] *= applied[name]
    return FoldedLayer(folded, {name: seen.divided(applied[name]) for name, seen in statistics.items()}, row_scales)
