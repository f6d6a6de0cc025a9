"""Bytes of the weight files of a W8A8S and a W8A8SC directory (docs/reference/formats.md)."""

from __future__ import annotations

import math

from tilepress.checkpoint import EMBEDDING, ModelShape
from tilepress.checkpoint.description import W8A8S, W8A8S_DYNAMIC
from tilepress.checkpoint.safetensors.writer import HEADER_ENTRY
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC, is_dynamic, mode_of_input
from tilepress.codec import ENTROPY, TILE_COLUMNS, TILE_ROWS
from tilepress.models.architecture import HEAD, fused_groups, group_of, linear_shapes
from tilepress.models.layer_inputs import LINEARS
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.layerwise.decoder import TensorSource
from tilepress.quantize.rate.weight_scales import SAMPLED_COLUMNS
from tilepress.quantize.recipe.recipe import DEFAULT_BITS, Recipe
from tilepress.quantize.statistics.fisher import BLOCK

INDEX_ENTRY = 8
INFO = 5 * 8
FLOAT = 4


def fixed_size(source: TensorSource, recipe: Recipe) -> int:
    """Bytes that the `bits` of an allocation do not count: floats, scales, index, info and the file's header."""
    shape = source.shape
    quantized = {
        prefix: size
        for prefix, size in fused_groups(shape).items()
        if prefix != HEAD.name and not recipe.keeps_float(_first_member(prefix))
    }
    if recipe.head:
        quantized[HEAD.name] = shape.linear(HEAD.name)
    deq_scale = _deq_scale(recipe)
    total = 0
    for prefix, (n, k) in quantized.items():
        dynamic = mode_of_input(recipe.activations, massive=group_of(prefix)[1].feed.massive) == DYNAMIC
        has_sums = is_dynamic(recipe.activations, W8A8S_DYNAMIC if dynamic else W8A8S)
        a_row, tensors = (deq_scale + 8, 8) if has_sums else (deq_scale + 4, 7)
        total += n * a_row + 3 + _tables(n, k, recipe.coding) + tensors * (len(prefix) + HEADER_ENTRY)
    if recipe.has_own_embedding(shape):
        tables = _tables(shape.vocab, shape.hidden, recipe.coding)
        total += 4 * shape.vocab + tables + 4 * (len(EMBEDDING) + HEADER_ENTRY)
    return total + floats_size(source, recipe)


def w8a8sc_size(source: TensorSource, recipe: Recipe) -> int:
    """Bytes of the weights of the W8A8SC directory in one part. A recipe with a `loss` is taken for DEFAULT_BITS."""
    if recipe.size is not None:
        return recipe.size
    bits = DEFAULT_BITS if recipe.bits is None else recipe.bits
    return fixed_size(source, recipe) + round(bits * quantized_weights(source.shape, recipe) / 8)


def w8a8s_size(source: TensorSource, recipe: Recipe) -> int:
    """Bytes of the weights of the W8A8S directory: a byte for each quantized weight, its scales, and the floats."""
    shape = source.shape
    linears = rounded_linears(shape, recipe) | ({HEAD.name: shape.linear(HEAD.name)} if recipe.head else {})
    total = sum(
        n * k + n * (_deq_scale(recipe) + 4) + 3 + 5 * (len(prefix) + HEADER_ENTRY)
        for prefix, (n, k) in linears.items()
    )
    if recipe.has_own_embedding(shape):
        total += shape.vocab * (shape.hidden + 4) + 2 * (len(EMBEDDING) + HEADER_ENTRY)
    return total + floats_size(source, recipe)


def floats_size(source: TensorSource, recipe: Recipe) -> int:
    """Bytes of the tensors that stay float, in either directory."""
    return sum(
        2 * math.prod(source.stored(name).shape) + len(name) + HEADER_ENTRY
        for name in source.names()
        if stays_float(name, recipe)
    )


def rounded_linears(shape: ModelShape, recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Name -> [n, k] of the linears of the layers that become integers."""
    return {name: size for name, size in linear_shapes(shape).items() if not recipe.keeps_float(name)}


def layer_bytes(shape: ModelShape, recipe: Recipe) -> int:
    """Bytes of the weights of all layers, one for an integer and two for a float."""
    return sum(n * k * (1 + recipe.keeps_float(name)) for name, (n, k) in linear_shapes(shape).items())


def _first_member(prefix: str) -> str:
    """Return a linear of a fused group of the layers."""
    scope, group = group_of(prefix)
    return f"{scope}{group.members[0]}"


def quantized_weights(shape: ModelShape, recipe: Recipe) -> int:
    """The number of weights that become integers: those of the layers' linears, and of head and embedding if chosen."""
    tables = recipe.head + recipe.has_own_embedding(shape)
    return sum(n * k for n, k in rounded_linears(shape, recipe).values()) + tables * shape.vocab * shape.hidden


def stays_float(name: str, recipe: Recipe) -> bool:
    """Return whether a tensor of the source stays float; the bias of a quantized linear is in its quant_bias."""
    prefix = name.rpartition(".")[0]
    if prefix == HEAD.name:
        return not recipe.head
    if prefix == EMBEDDING:
        return not recipe.embeddings
    return not prefix.endswith(LINEARS) or recipe.keeps_float(prefix)


def _deq_scale(recipe: Recipe) -> int:
    """Bytes that the deq_scale of one row takes."""
    return 8 if recipe.dtype == "float16" else 4


def _tables(n: int, k: int, coding: str) -> int:
    across = 1 if coding == ENTROPY else -(-k // TILE_COLUMNS)
    return INDEX_ENTRY * -(-n // TILE_ROWS) * across + INFO


def work_size(shape: ModelShape, recipe: Recipe, size: CalibrationSize) -> int:
    """Peak of the bytes in the work directory, including files that the output takes from it by links.

    Beside the integers it holds the inputs of each layer in the first pass, later the inputs of two layers in the
    second, and the sensitivities and sampled columns of each linear. After any training, which takes the integers that
    moved, the output is written anew.
    """
    hidden = FLOAT * shape.hidden
    first = size.sensitivity_samples * size.sensitivity_length * hidden * (shape.layers + 2)
    second = 2 * size.samples * size.length * hidden
    rows = shape.layers * sum(shape.linear(name)[0] for name in LINEARS)
    weights = layer_bytes(shape, recipe)
    tables = shape.vocab * (recipe.head + recipe.has_own_embedding(shape))
    samples = (rows + tables) * FLOAT * (SAMPLED_COLUMNS + 4) + rows * FLOAT * BLOCK
    trained = weights if recipe.block_steps else 0
    if recipe.block_steps or recipe.distill_steps:
        trained += weights + tables * shape.hidden
    return samples + max(first, second + weights + tables * shape.hidden, weights + tables * shape.hidden + trained)
