"""A transformers model whose linears are those of a W8A8S or W8A8SC directory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from tilepress.checkpoint import EMBEDDING, W8A8SCCheckpoint, W8A8SCheckpoint
from tilepress.checkpoint import CompressedEmbedding as StoredTable
from tilepress.checkpoint import CompressedLinear as StoredLinear
from tilepress.checkpoint.auxiliary import copy_directory
from tilepress.engines.biased_norm import BiasedNorm
from tilepress.engines.long_context import extend_context
from tilepress.engines.operands import converted
from tilepress.engines.transformers.compressed_embedding import CompressedEmbedding, StoredEmbedding, StoredHead
from tilepress.engines.transformers.compressed_linear import CompressedLinear, FusedLinear
from tilepress.errors import CheckpointError
from tilepress.models.architecture import HEAD, group_of
from tilepress.models.transformers_config import empty_model, model_config

QuantizedCheckpoint = W8A8SCheckpoint | W8A8SCCheckpoint

# Keys that quantized directories add to config.json; transformers would look for a quantizer that it does not have.
ADDED_KEYS = ("quantize", "quantization_config")
TABLES = (f"{EMBEDDING}.weight", "lm_head.weight")
# Bytes of copied weights after which the pages of the files are given back: finding these takes a millisecond.
RELEASED_AT_ONCE = 1 << 26


def build_quantized_model(
    checkpoint: QuantizedCheckpoint, dtype: torch.dtype, max_model_len: int | None = None, *, fast: bool = False
) -> PreTrainedModel:
    """Return the model on the CPU, in evaluation mode.

    dtype: of activations and of the tensors that are stored as floats. max_model_len: see `extend_context`. fast: bring
    the weights of linears to the fast form (`engines/residency.py`).

    Linears are compressed where the directory is not (W8A8S), and taken as they are where it is. Raises CheckpointError
    for a tensor that is missing, that the model has no place for, or that has another shape.
    """
    config = _model_config(checkpoint)
    extend_context(config, checkpoint.config, checkpoint.path / "config.json", max_model_len)
    model = empty_model(config, dtype, checkpoint.path)
    fill(model, checkpoint, dtype, fast=fast)
    built: PreTrainedModel = model.eval()
    return built


def fill(model: Any, checkpoint: QuantizedCheckpoint, dtype: torch.dtype, *, fast: bool) -> None:
    """Put everything that the checkpoint holds into a model on the meta device; as of `build_quantized_model`."""
    shard = checkpoint.shard(0, 1, fast=fast)
    copied, unreleased = fast or isinstance(checkpoint, W8A8SCheckpoint), 0
    for prefix in checkpoint.fused_groups():
        stored = shard.compressed_linear(prefix)
        _place_compressed(model, checkpoint, prefix, stored)
        if prefix == HEAD.name and checkpoint.shares_table:
            model.model.embed_tokens = CompressedEmbedding(StoredTable.of_head(stored), dtype)
        unreleased += stored.weight.nbytes
        if copied and unreleased > RELEASED_AT_ONCE:
            checkpoint.release()  # what the copies were made of is not needed any more
            unreleased = 0
    if checkpoint.is_quantized(EMBEDDING):
        model.model.embed_tokens = CompressedEmbedding(checkpoint.compressed_embedding(), dtype)
    _place_floats(model, checkpoint, dtype)
    if copied:
        checkpoint.release()
    # Rotary frequencies are stored nowhere; they follow from the config.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    model.save_pretrained = partial(copy_directory, checkpoint.path.resolve())
    model.push_to_hub = partial(copy_directory, checkpoint.path.resolve(), push_to_hub=True)


def _model_config(checkpoint: QuantizedCheckpoint) -> PreTrainedConfig:
    fields = {key: value for key, value in checkpoint.config.items() if key not in ADDED_KEYS}
    fields["tie_word_embeddings"] = checkpoint.shape.tied
    return model_config(fields, checkpoint.path)


def _place_compressed(
    model: PreTrainedModel, checkpoint: QuantizedCheckpoint, prefix: str, stored: StoredLinear
) -> None:
    """Put the compressed linear of one fused group where the model's own linears are."""
    block_name, _, fused_name = prefix.rpartition(".")
    block = model.get_submodule(block_name)
    group = group_of(prefix)[1]
    names = [member.rpartition(".")[2] for member in group.members]
    linears: list[Any] = [block.get_submodule(name) for name in names]
    sizes = [linear.out_features for linear in linears]
    _check_shape(checkpoint, f"{prefix}.weight", stored.weight.shape, (sum(sizes), linears[0].in_features))
    if len(names) == 1:
        setattr(block, names[0], CompressedLinear(stored))
        return
    fused = FusedLinear(stored, sizes, names)
    setattr(block, fused_name, fused)
    for name, member in zip(names, fused.members(), strict=True):
        setattr(block, name, member)


def _place_floats(model: Any, checkpoint: QuantizedCheckpoint, dtype: torch.dtype) -> None:
    """Assign every stored float tensor, and check that none is missing or left over."""
    expected = dict(model.named_parameters())
    stored = checkpoint.float_names()
    missing = sorted(expected.keys() - set(stored))
    if missing:
        raise CheckpointError(
            f"{checkpoint.path}: tensor {missing[0]} is missing; get the whole directory or make it again"
        )
    for name in stored:
        tensor = _converted(checkpoint, name, dtype)
        if name in expected:
            _check_shape(checkpoint, name, tensor.shape, expected[name].shape)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            _add_bias(model, checkpoint, name, tensor)
    model.tie_weights()
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    if isinstance(model.model.embed_tokens, nn.Embedding) and embedding.dtype != dtype:
        model.model.embed_tokens = StoredEmbedding(embedding.data, dtype)
    if type(model.lm_head) is nn.Linear and head.dtype != dtype:
        model.lm_head = StoredHead(head.data)


def _converted(checkpoint: QuantizedCheckpoint, name: str, dtype: torch.dtype) -> Tensor:
    """Return the stored tensor in dtype; embedding and head stay in 16 bits where dtype is wider."""
    stored = checkpoint.float_tensor(name)
    if name in TABLES and stored.itemsize < dtype.itemsize:
        return stored
    return converted(stored, dtype, f"{checkpoint.path}: {name}")


def _add_bias(model: PreTrainedModel, checkpoint: QuantizedCheckpoint, name: str, bias: Tensor) -> None:
    """Give a norm or a float linear a bias that its architecture does not have."""
    owner, _, leaf = name.rpartition(".")
    module = dict(model.named_modules()).get(owner)
    weight = dict(module.named_parameters(recurse=False)).get("weight") if module is not None else None
    if module is None or weight is None or leaf != "bias":
        raise CheckpointError(
            f"{checkpoint.path}: the model has no place for tensor {name}; config and weights do not match"
        )
    _check_shape(checkpoint, name, bias.shape, weight.shape[:1])
    if isinstance(module, nn.Linear):
        module.bias = nn.Parameter(bias, requires_grad=False)
    elif bool(bias.any()):
        model.set_submodule(owner, BiasedNorm(module, bias))


def _check_shape(checkpoint: QuantizedCheckpoint, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise CheckpointError(f"{checkpoint.path}: {name} is {list(found)}; config.json asks for {list(expected)}")
