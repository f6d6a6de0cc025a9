"""From a directory to a model that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.device import resolve_device
from tilepress.engines.transformers.long_context import extend_context
from tilepress.engines.transformers.moving import to_cuda
from tilepress.engines.transformers.quantized_model import QuantizedCheckpoint, build_quantized_model
from tilepress.errors import CheckpointError, UsageError
from tilepress.kernels import check_device
from tilepress.model_config import generation_config, model_config
from tilepress.text import load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# On a processor without 16-bit arithmetic compressed models generate as fast in float32 as in 16 bits, and float models
# take a prompt in a sixth of the time (docs/engines.md has the numbers).
CPU_DTYPE = torch.float32


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    max_model_len: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model ready to generate, and its tokenizer, from a float, W8A8S or W8A8SC directory or a hub id.

    device: cpu, cuda[:i] or npu[:i]; quantized models run on cpu and cuda. dtype: of activations and float tensors,
    one of DTYPES or its name; by default float32 on the cpu and what the directory stores elsewhere. A W8A8S model is
    compressed in memory first and gives the same bits as its W8A8SC directory, whatever its tensor-parallel size.
    max_model_len: tokens of prompt and answer; beyond what the model was trained for its positions are scaled by YaRN.

    Raises CheckpointError or BitstreamError for a directory that is incomplete, damaged or of another kind,
    UsageError for a device, dtype or length that cannot be had.
    """
    target = resolve_device(device)
    compute = _resolve_dtype(dtype)
    checkpoint = open_checkpoint(path)
    # What is small and may be broken is read before gigabytes are.
    tokenizer = load_tokenizer(checkpoint.path, trust_remote_code=trust_remote_code)
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
        model = build_quantized_model(checkpoint, compute or _default_dtype(checkpoint, target), max_model_len)
        if target.type == "cuda":
            model = to_cuda(model, target)
    if stored_settings is not None:
        model.generation_config = stored_settings
    # From this length on it warns, once.
    tokenizer.model_max_length = max(tokenizer.model_max_length, model.config.max_position_embeddings)
    return model, tokenizer


def _float_model(checkpoint: FloatCheckpoint, dtype: Any, max_model_len: int | None, trust_remote_code: bool) -> Any:
    """transformers' model of a float directory, which `checkpoint` has found to be whole."""
    source: Any = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        config: PreTrainedConfig = (
            AutoConfig.from_pretrained(checkpoint.path, **source)
            if trust_remote_code
            else model_config(checkpoint.config, checkpoint.path)
        )
        config.tie_word_embeddings = checkpoint.shape.tied
        extend_context(config, max_model_len)
        return AutoModelForCausalLM.from_pretrained(checkpoint.path, config=config, dtype=dtype, **source)
    except (OSError, TypeError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"{checkpoint.path}: transformers cannot load the model: {error}") from error


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
