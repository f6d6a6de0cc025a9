"""From a directory to a model that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tilepress.checkpoint import FloatCheckpoint, ModelShape, open_checkpoint
from tilepress.codec import RESIDENT_FORM, Compressed, validate
from tilepress.engines.long_context import extend_context
from tilepress.engines.operands import for_cuda
from tilepress.engines.residency import takes_fast_form
from tilepress.engines.transformers.compressed_embedding import CompressedEmbedding
from tilepress.engines.transformers.compressed_linear import CompressedLinear, CompressedProduct
from tilepress.engines.transformers.generation.cache_type import choose as choose_cache_type
from tilepress.engines.transformers.generation.cache_type import named as cache_type_named
from tilepress.engines.transformers.generation.cache_type import set_cache_type
from tilepress.engines.transformers.generation.decode_step import DecodeStep
from tilepress.engines.transformers.model import QuantizedCheckpoint, build_quantized_model
from tilepress.errors import BitstreamError, CheckpointError, TilepressError, UsageError
from tilepress.kernels import check_device
from tilepress.machine.device import resolve_device
from tilepress.machine.memory import available_bytes
from tilepress.machine.requirements import Memory, Requirements
from tilepress.models.architecture import linear_shapes
from tilepress.models.transformers_config import generation_config, model_config
from tilepress.text import check_chat_template, load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# On a processor without 16-bit arithmetic compressed models generate as fast in float32 as in 16 bits. Float models
# take a prompt in a sixth of the time (docs/reference/engines.md has the numbers).
CPU_DTYPE = torch.float32


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    max_model_len: int | None = None,
    trust_remote_code: bool = False,
    resident: str | None = None,
    kv: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model ready to generate, and its tokenizer, from a float, W8A8S or W8A8SC directory or a hub id.

    device: cpu, cuda[:i] or npu[:i]; quantized models run on cpu and cuda. dtype: of activations and float tensors,
    one of DTYPES or its name; by default float32 on the cpu and what the directory stores elsewhere. A W8A8S model is
    compressed in memory first and gives the same bits as its W8A8SC directory, whatever its tensor-parallel size.
    max_model_len: tokens of prompt and answer; beyond what the model was trained for its positions are scaled by YaRN.
    resident: form of the weights in memory, "stored", "fast" or "auto"; None: $TILEPRESS_RESIDENT or "auto".
    kv: how generation keeps keys and values on the cpu, "float32", "float16" or "int8"; None: float16 for a quantized
    model in float32.

    Raises CheckpointError or BitstreamError for a directory that is incomplete, damaged or of another kind,
    UsageError for a device, dtype or length that cannot be had.
    """
    return load_model(
        path,
        device=device,
        dtype=dtype,
        max_model_len=max_model_len,
        trust_remote_code=trust_remote_code,
        template_needed=False,
        resident=resident,
        kv=kv,
    )


def load_model(
    path: str | Path,
    *,
    device: str,
    dtype: str | torch.dtype | None,
    max_model_len: int | None,
    trust_remote_code: bool,
    template_needed: bool,
    resident: str | None = None,
    kv: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load as `load` does. template_needed: refuse a chat template that does not take a user's message."""
    target = resolve_device(device)
    fast = takes_fast_form(resident, target.type)
    compute, kept = _resolve_dtype(dtype), cache_type_named(kv)
    checkpoint = open_checkpoint(path)
    # Small files that may be broken are read before gigabytes of weights.
    config = None if trust_remote_code else model_config(checkpoint.config, checkpoint.path)
    tokenizer = load_tokenizer(checkpoint.path, config, trust_remote_code=trust_remote_code)
    if template_needed:
        check_chat_template(tokenizer)
    stored_settings = generation_config(checkpoint.path)
    if isinstance(checkpoint, FloatCheckpoint):
        default = CPU_DTYPE if target.type == "cpu" else "auto"
        model: Any = _float_model(checkpoint, compute or default, max_model_len, trust_remote_code)
        model = model.to(target).eval()
    elif target.type == "npu":
        raise UsageError(
            f"--device {device}: {checkpoint.path} is quantized, and this version multiplies compressed weights on cpu "
            "and cuda only; use one of them, or the float model"
        )
    else:
        if target.type == "cuda":
            check_device(target)
        compute = compute or _default_dtype(checkpoint, target)
        model = build_quantized_model(checkpoint, compute, max_model_len, fast=fast)
        if target.type == "cuda":
            model = to_cuda(model, target)
    compressed = not isinstance(checkpoint, FloatCheckpoint)
    set_cache_type(model, choose_cache_type(kept, model, compressed=compressed, fast=DecodeStep.supports(model)))
    if stored_settings is not None:
        model.generation_config = stored_settings
    # The tokenizer warns, once, of texts longer than this.
    tokenizer.model_max_length = max(tokenizer.model_max_length, model.config.max_position_embeddings)
    return model, tokenizer


def _float_model(checkpoint: FloatCheckpoint, dtype: Any, max_model_len: int | None, trust_remote_code: bool) -> Any:
    """Return transformers' model of a float directory, which `checkpoint` has found to be whole."""
    source: Any = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        config: PreTrainedConfig = (
            AutoConfig.from_pretrained(checkpoint.path, **source)
            if trust_remote_code
            else model_config(checkpoint.stored_config, checkpoint.path)
        )
        config.tie_word_embeddings, config.return_dict = checkpoint.shape.tied, True
        extend_context(config, checkpoint.config, checkpoint.path / "config.json", max_model_len)
        return AutoModelForCausalLM.from_pretrained(checkpoint.path, config=config, dtype=dtype, **source)
    except TilepressError:
        raise
    except Exception as error:  # as many kinds as there are ways to be broken
        raise CheckpointError(
            f"{checkpoint.path}: transformers cannot load the model: {type(error).__name__}: {error}"
        ) from error


def _resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype if isinstance(dtype, torch.dtype) else None
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: use one of {', '.join(DTYPES)}")
    return DTYPES[str(dtype)]


def _default_dtype(checkpoint: QuantizedCheckpoint, target: torch.device) -> torch.dtype:
    if target.type == "cpu":
        return CPU_DTYPE
    stored = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    return DTYPES.get(str(stored), torch.bfloat16)


BYTES = ("weight", "index", "info")


def to_cuda(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move `model` to the device. A table that head and embedding share stays one.

    Kernels on the device cannot report damage. So all tile headers are checked before, and BitstreamError names the
    layer. What is in the fast form, made of decoded tiles, gets that of devices.
    """
    for name, module in model.named_modules():
        if isinstance(module, CompressedProduct | CompressedEmbedding):
            if int(module.info[4]) != RESIDENT_FORM:
                _validate(name, module)
            for buffer, tensor in for_cuda({buffer: getattr(module, buffer) for buffer in BYTES}).items():
                setattr(module, buffer, tensor)
    decoder: Any = model
    embedding, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()
    shared = _same_bytes(embedding, head)
    decoder.to(device)
    if shared:
        for name in BYTES:
            setattr(embedding, name, getattr(head, name))
    return model


def _validate(name: str, module: CompressedProduct | CompressedEmbedding) -> None:
    try:
        validate(Compressed(module.weight.numpy(), module.index.numpy(), module.info.numpy()))
    except BitstreamError as error:
        raise BitstreamError(f"{name}: {error}; get the directory again") from None


def _same_bytes(embedding: nn.Module | None, head: nn.Module | None) -> bool:
    return (
        isinstance(embedding, CompressedEmbedding)
        and isinstance(head, CompressedLinear)
        and embedding.weight.data_ptr() == head.weight.data_ptr()
    )


# Bytes resident on Linux with Python 3.11, torch 2.13 and transformers 5.19, before any tensor.
PROCESS = 360_000_000
# Bytes of a number in keys and values, and in stored tables.
KEPT, STORED = 2, 2
# Tokens that the cache is counted with: a long question and its answer.
TOKENS = 4096


def plan_run(shape: ModelShape, weight_file: int, *, head: bool, embeddings: bool) -> Requirements:
    """Return the peak memory of `run` on a W8A8SC directory of one part with weights of `weight_file` bytes.

    Weights are mapped, and all are read, but only some rows of the embedding. Keys and values of TOKENS tokens are
    added. head, embeddings: True where these are integers; a tied float head is the embedding.
    """
    cache = 2 * KEPT * TOKENS * shape.layers * shape.kv_heads * shape.head_dim
    needed = PROCESS + weight_file - _looked_up(shape, weight_file, head=head, embeddings=embeddings) + cache
    remedy = "quantize to fewer --bits, with --head --embeddings, or run it on a machine with more memory"
    return Requirements("run", Memory(needed, available_bytes(), remedy), disks=(), seconds=None, output=0)


def _looked_up(shape: ModelShape, weight_file: int, *, head: bool, embeddings: bool) -> int:
    """Return the bytes of the embedding, 0 where it is the head too."""
    table = shape.vocab * shape.hidden
    if shape.tied and head == embeddings:
        return 0
    if not embeddings:
        return STORED * table
    integers = sum(n * k for n, k in linear_shapes(shape).values()) + table * (1 + head)
    floats = 0 if head else STORED * table
    return round((weight_file - floats) * table / integers)
