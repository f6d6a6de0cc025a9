"""Bytes of a W8A8SC directory's weight file in one part, but for the codes of its integers (docs/formats.md)."""

from __future__ import annotations

import math

from tilepress.checkpoint import EMBEDDING
from tilepress.checkpoint.activations import PER_TOKEN, has_own_scales
from tilepress.checkpoint.architecture import HEAD, fused_groups, group_of
from tilepress.checkpoint.descriptions import W8A8S, W8A8S_DYNAMIC
from tilepress.checkpoint.feeds import LINEARS
from tilepress.checkpoint.streaming_file import HEADER_ENTRY
from tilepress.quantize.decoder import TensorSource
from tilepress.quantize.recipe import Recipe

# Rows and columns of a tile.
TILE = (128, 256)
INDEX_ENTRY = 8
INFO = 5 * 8


def fixed_size(source: TensorSource, recipe: Recipe) -> int:
    """What `bits` of an allocation do not count: floats, scales, index, info and the file's header."""
    shape = source.shape
    quantized = {prefix: size for prefix, size in fused_groups(shape).items() if prefix != HEAD.name}
    if recipe.head:
        quantized[HEAD.name] = shape.linear(HEAD.name)
    deq_scale = 8 if recipe.dtype == "float16" else 4
    total = 0
    for prefix, (n, k) in quantized.items():
        dynamic = recipe.activations == PER_TOKEN and group_of(prefix)[1].feed.massive
        has_sums = has_own_scales(recipe.activations, W8A8S_DYNAMIC if dynamic else W8A8S)
        a_row, tensors = (deq_scale + 8, 8) if has_sums else (deq_scale + 4, 7)
        total += n * a_row + 3 + _tables(n, k) + tensors * (len(prefix) + HEADER_ENTRY)
    if recipe.embeddings and not shape.tied:  # a tied one is the head's table
        total += 4 * shape.vocab + _tables(shape.vocab, shape.hidden) + 4 * (len(EMBEDDING) + HEADER_ENTRY)
    return total + sum(
        2 * math.prod(source.stored(name).shape) + len(name) + HEADER_ENTRY
        for name in source.names()
        if stays_float(name, recipe)
    )


def stays_float(name: str, recipe: Recipe) -> bool:
    """Whether a tensor of the source is stored as floats; the bias of a quantized linear is in its quant_bias."""
    prefix = name.rpartition(".")[0]
    if prefix == HEAD.name:
        return not recipe.head
    if prefix == EMBEDDING:
        return not recipe.embeddings
    return not prefix.endswith(LINEARS)


def _tables(n: int, k: int) -> int:
    return INDEX_ENTRY * -(-n // TILE[0]) * -(-k // TILE[1]) + INFO
