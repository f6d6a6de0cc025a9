"""Opening a model directory or a hub id as the kind of checkpoint it is."""

from __future__ import annotations

import re
from pathlib import Path

from tilepress.checkpoint.description import description_file
from tilepress.checkpoint.float_checkpoint import FloatCheckpoint, has_float_weights
from tilepress.checkpoint.w8a8s import W8A8SCheckpoint
from tilepress.checkpoint.w8a8sc import W8A8SCCheckpoint, part_directories
from tilepress.checkpoint.w8a8sc_part import closed_bitstream
from tilepress.errors import CheckpointError
from tilepress.jobs.json_files import read_object

__all__ = ["Checkpoint", "FloatCheckpoint", "W8A8SCCheckpoint", "W8A8SCheckpoint", "open_checkpoint"]

Checkpoint = FloatCheckpoint | W8A8SCheckpoint | W8A8SCCheckpoint

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_UNUSED = ["*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "original/*", "onnx/*"]
# What the vendor's plugin of vLLM makes of its W8A8SC: compressed parts in one folder.
VENDORS_FLAT_PARTS = "model-rank-*-part-*.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth")


def open_checkpoint(path: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Open a directory, or a hub id such as "Qwen/Qwen3-8B", which is downloaded.

    The contents decide the kind: parts make it W8A8SC, a quant_model_description.json W8A8S, model.safetensors or its
    index float. revision: that of a hub id, its newest if None. Raises CheckpointError for anything else and for what
    the three kinds refuse.
    """
    if not str(path):
        raise CheckpointError("the path of the model is empty; give its directory or a hub id")
    directory = Path(path).expanduser()
    if not directory.exists() and _HUB_ID.fullmatch(str(path)):
        directory = _download(str(path), revision)
    if not directory.exists():
        raise CheckpointError(f"{path}: no such directory, and not a hub id of the form owner/name")
    if not directory.is_dir():
        raise CheckpointError(f"{path}: is a file; give the directory of the model")
    for entry in directory.iterdir():
        if entry.is_symlink() and not entry.exists():
            raise CheckpointError(f"{entry}: is a link to {entry.readlink()}, which is gone; download the model again")
    if part_directories(directory):
        return W8A8SCCheckpoint(directory)
    flat = sorted(directory.glob(VENDORS_FLAT_PARTS))
    if flat and description_file(directory) is not None:
        raise closed_bitstream(flat[0])
    if description_file(directory) is not None:
        return W8A8SCheckpoint(directory)
    _refuse_other_folders(directory)
    config = read_object(directory / "config.json")
    if config.get("quantize") is not None:
        raise CheckpointError(
            f"{directory / 'config.json'}: quantize is {config['quantize']!r}, but there is neither "
            "quant_model_description.json nor part0-of-N; get the checkpoint again"
        )
    if has_float_weights(directory):
        return FloatCheckpoint(directory)
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory / pickles[0]}: pickled weights can run code and are not read; convert the model to "
            "safetensors (transformers: load it and save_pretrained it)"
        )
    raise CheckpointError(
        f"{directory}: not a model directory: it holds no model.safetensors, no quant_model_description.json and no "
        "part0-of-N; give the directory of a model"
    )


def _refuse_other_folders(directory: Path) -> None:
    """Raise CheckpointError for folders that are easily taken for a model's, with what to give instead."""
    if (directory / "config.json").exists():
        return
    if (directory / "adapter_config.json").exists():
        base = read_object(directory / "adapter_config.json").get("base_model_name_or_path") or "some model"
        raise CheckpointError(
            f"{directory}: holds a LoRA adapter of {base}, not a model; merge it into that model first (peft: "
            "merge_and_unload, then save_pretrained) and give the merged directory"
        )
    snapshots = sorted(found.parent for found in directory.glob("snapshots/*/config.json"))
    if snapshots:
        raise CheckpointError(f"{directory}: is the hub cache's folder of a model; give its snapshot, {snapshots[-1]}")
    files = sorted(directory.glob("*.gguf"))
    if files:
        raise CheckpointError(
            f"{files[0]}: GGUF files are not read, and their weights are mostly rounded already; give the directory of "
            "the float model"
        )


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, ignore_patterns=_UNUSED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{hub_id}: no such directory, and it could not be downloaded ({reason}); check the name and the network, "
            "or give a local directory"
        ) from None
