"""From a directory to a model that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tilepress.checkpoint import open_checkpoint
from tilepress.device import resolve_device
from tilepress.engines.transformers.long_context import extend_context
from tilepress.engines.transformers.moving import to_cuda
from tilepress.engines.transformers.quantized_model import QuantizedCheckpoint, build_quantized_model
from tilepress.errors import CheckpointError, UsageError
from tilepress.kernels import check_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# On a processor without 16-bit arithmetic compressed models generate as fast in float32 as in 16 bits, and float models
# take a prompt in a sixth of the time (docs/engines.md has the numbers).
CPU_DTYPE = torch.float32

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.*", "*.tiktoken")


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
    if checkpoint.kind == "float":
        default: Any = CPU_DTYPE if target.type == "cpu" else "auto"
        source: Any = {"trust_remote_code": trust_remote_code, "local_files_only": True}
        config = AutoConfig.from_pretrained(checkpoint.path, **source)
        extend_context(config, max_model_len)
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, config=config, dtype=compute or default, **source
        )
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
        model.generation_config = _generation_config(checkpoint.path, model)
        if target.type == "cuda":
            model = to_cuda(model, target)
    tokenizer = _tokenizer(checkpoint.path, trust_remote_code)
    # From this length on it warns, once.
    tokenizer.model_max_length = max(tokenizer.model_max_length, model.config.max_position_embeddings)
    return model, tokenizer


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


def _generation_config(path: Path, model: PreTrainedModel) -> GenerationConfig:
    """The stored one; where there is none, the one that transformers derives from the model's config."""
    if not (path / "generation_config.json").is_file():
        config: GenerationConfig = model.generation_config
        return config
    try:
        return GenerationConfig.from_pretrained(path, local_files_only=True)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / 'generation_config.json'} cannot be read: {error}") from error


def _tokenizer(path: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    # Without any of these transformers makes a tokenizer that knows no token, and does not say so.
    if not any(file for pattern in VOCABULARIES for file in path.glob(pattern)):
        raise CheckpointError(f"{path}: no tokenizer.json; copy the tokenizer's files from the original model")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: transformers cannot read the tokenizer ({error}); copy its files from the original model"
        ) from error
    return tokenizer
