"""vLLM's loader of tilepress directories: each rank loads its shard instead of a list of whole tensors."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.model_loader import DefaultModelLoader, register_model_loader

from tilepress.checkpoint import open_checkpoint
from tilepress.checkpoint.description import description_file
from tilepress.checkpoint.w8a8sc import part_directories
from tilepress.engines.residency import takes_fast_form
from tilepress.engines.vllm.config import METHOD, TilepressConfig
from tilepress.engines.vllm.serve.unchanged import check_unchanged
from tilepress.engines.vllm.shard import ModelShard, open_shard
from tilepress.engines.vllm.weights import place
from tilepress.errors import UsageError
from tilepress.kernels import check_device

log = logging.getLogger(__name__)


def register() -> None:
    """Stand in for vLLM's loader of --load-format auto, the default, so that no flag is needed."""
    theirs = logging.getLogger("vllm.model_executor.model_loader")
    theirs.disabled = True  # it would warn at each start, for all models
    try:
        register_model_loader("auto")(TilepressLoader)
    finally:
        theirs.disabled = False


class TilepressLoader(DefaultModelLoader):
    """Loads tilepress directories; all other models as vLLM's own loader does."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._shard: ModelShard | None = None

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """The rank's model. Raises CheckpointError, BitstreamError and UsageError as `open_shard` and `place` do."""
        check_unchanged(model_config.model)
        quantization = vllm_config.quant_config
        if isinstance(quantization, TilepressConfig):
            device = vllm_config.device_config.device_type
            if device == "cuda":
                check_device(torch.device(device))
            elif device != "cpu":
                raise UsageError(
                    f"{model_config.model} is quantized, and this version multiplies compressed weights on cpu and "
                    f"cuda, not on {device}; use a vLLM built for one of them, or the float model"
                )
            self._shard = open_shard(
                model_config.model,
                tp=get_tensor_model_parallel_world_size(),
                rank=get_tensor_model_parallel_rank(),
                revision=model_config.revision,
                fast=takes_fast_form(None, device),
            )
            quantization.shard = self._shard
            # config.json may call a model tied that stores a head of its own: the head counts.
            model_config.hf_config.tie_word_embeddings = self._shard.tied
        elif quantization is None:
            refuse_unnamed(model_config.model)
        model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        check_unchanged(model_config.model)
        return model

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        if self._shard is None:
            super().load_weights(model, model_config)
        else:
            place(model, self._shard)
            rank = self._shard.shard
            if rank.encoded:
                log.info(
                    "tilepress: %d of %d tiles encoded for rank %d of %d; `tilepress reshard --tp %d` saves that",
                    rank.encoded,
                    rank.tiles,
                    rank.rank,
                    rank.tp,
                    rank.tp,
                )

    def download_model(self, model_config: ModelConfig) -> None:
        if model_config.quantization == METHOD:
            open_checkpoint(model_config.model, revision=model_config.revision)
        else:
            super().download_model(model_config)


def refuse_unnamed(model: str) -> None:
    """Raise UsageError for a quantized directory whose config.json does not name the method, such as the vendor's.

    vLLM would look for float weights in it.
    """
    directory = Path(model)
    if directory.is_dir() and (description_file(directory) is not None or part_directories(directory)):
        raise UsageError(
            f"{model}: is quantized, and its config.json does not name the method; serve it with `tilepress serve "
            f"{model}`, or with --quantization {METHOD}"
        )
