"""The whole quantization on a small cut-out of the model, so that an error shows before hours of computation."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilepress.checkpoint import FloatCheckpoint, ModelShape, architecture_of
from tilepress.checkpoint.safetensors.reader import Stored
from tilepress.errors import TilepressWarning, UsageError
from tilepress.jobs.atomic_directory import save_tensors
from tilepress.jobs.json_files import write_object
from tilepress.models.architecture import float_tensors
from tilepress.quantize.calibration.size import CalibrationSize
from tilepress.quantize.estimate.settle import Settled
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.pipeline import quantize_tokens
from tilepress.quantize.recipe.recipe import Recipe

# One layer of this size takes a second or two on two cores; a layer of full width takes minutes.
HIDDEN, INTERMEDIATE, VOCABULARY = 256, 512, 1024
SAMPLES, LENGTH = 2, 32

_TOKEN_IDS = ("_token_id", "_token_ids", "_token_index")


def rehearse(source: FloatCheckpoint, recipe: Recipe, device: torch.device) -> None:
    """Quantize one layer of a few channels of `source` into a scratch directory, which is removed again.

    It takes the path of `quantize_checkpoint`: statistics, gradients, factors, rounding, encoding, distillation if the
    recipe has steps of it, writing and reading back. Where that fails, a model that is known to work is rehearsed too,
    to tell what is at fault. If that model fails as well, UsageError says what does not work on `device`. If it does
    not, a TilepressWarning says that the cut-out failed, since the whole model may well go through. Raises
    CheckpointError where transformers refuses the config of the whole model.
    """
    LayerwiseDecoder(source, torch.device("cpu"))
    try:
        _quantize_cut_out(source, recipe, device)
    except Exception as error:  # a cut goes wrong in ways of its own: assertions, keys, shapes
        reason = f"{type(error).__name__}: {error}"
        if not _works(recipe, device):
            raise UsageError(
                f"a rehearsal on a small part of the model failed on {device}: {reason}; nothing was begun"
            ) from error
        warnings.warn(
            f"the rehearsal on a small part of the model failed ({reason}); it works on another model, so that this "
            "machine is not at fault, and the whole model may go through: the run goes on",
            TilepressWarning,
            stacklevel=2,
        )


def _quantize_cut_out(source: FloatCheckpoint, recipe: Recipe, device: torch.device) -> None:
    cut = CutOut(source)
    steps, block_steps = min(1, recipe.distill_steps or 0), min(1, recipe.block_steps or 0)
    short = replace(
        recipe,
        bits=None,
        size=None,
        loss=None,
        float_linears=(),  # which may be all that the only layer has
        float_above=0.0,
        distill_steps=steps,
        block_steps=block_steps,
    )
    size = CalibrationSize(SAMPLES, LENGTH, SAMPLES, LENGTH, 1 << 30, ())
    tokens = torch.randint(cut.shape.vocab, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="tilepress-rehearsal-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values too small for the stored type: the real run warns of them
        out = Path(folder) / "w8a8s"
        choice = Settled(size, steps, block_steps)
        quantize_tokens(cut, out, short, choice, tokens, device=str(device), states_memory=size.memory, kept=False)


def _works(recipe: Recipe, device: torch.device) -> bool:
    """Return whether a small model of random weights, which is known to work, can be quantized on this machine."""
    with tempfile.TemporaryDirectory(prefix="tilepress-rehearsal-") as folder:
        try:
            _quantize_cut_out(_control(Path(folder)), recipe, device)
        except Exception:
            return False
    return True


def _control(folder: Path) -> FloatCheckpoint:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    write_object(folder / "config.json", config)
    shape, generator = ModelShape.from_config(config), torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones(size) if "norm" in name else torch.randn(size, generator=generator) * 0.08
        for name, size in float_tensors(architecture_of(config), shape).items()
    }
    save_tensors(tensors, folder / "model.safetensors")
    return FloatCheckpoint(folder)


class CutOut(FloatCheckpoint):
    """The first channels of the first layer of a float checkpoint, as a checkpoint of its own.

    It keeps the architecture, the head_dim and the number of query heads that share a kv head.
    """

    def __init__(self, source: FloatCheckpoint) -> None:
        whole = source.shape
        heads = whole.heads // whole.kv_heads
        self.path, self.architecture = source.path, source.architecture
        self.shape = replace(
            whole,
            layers=1,
            # transformers wants a multiple of the number of heads for Llama.
            hidden=min(whole.hidden, HIDDEN) // heads * heads or whole.hidden,
            intermediate=min(whole.intermediate, INTERMEDIATE),
            heads=heads,
            kv_heads=1,
            vocab=min(whole.vocab, VOCABULARY),
        )
        self.config = _config(source.config, self.shape)
        self._source = source
        self._sizes = float_tensors(source.architecture, self.shape)
        self._names = list(self._sizes)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """See FloatCheckpoint."""
        rows = range(self._sizes[name][0])[start:stop]
        part = self._source.read(name, rows.start, rows.stop)
        return part[(slice(None), *(slice(size) for size in self._sizes[name][1:]))]

    def stored(self, name: str) -> Stored:
        """See FloatCheckpoint."""
        return replace(self._source.stored(name), shape=self._sizes[name])

    def files(self) -> list[Path]:
        """Return no files: a rehearsal is never resumed."""
        return []


def _config(whole: Mapping[str, Any], shape: ModelShape) -> dict[str, Any]:
    """Return the config of the cut-out, without token ids: they may lie beyond its vocabulary and are not needed."""
    config = {key: None if key.endswith(_TOKEN_IDS) else value for key, value in whole.items()}
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config |= shape.to_config()
    if isinstance(whole.get("layer_types"), list):
        config["layer_types"] = whole["layer_types"][:1]
    return config
