"""Files of a checkpoint directory: copies of all of them, and of those beside config, weights and description."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tilepress.errors import CheckpointError, UsageError
from tilepress.jobs.atomic_directory import create_staging, discard, publish, writing

_WEIGHTS = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
_TEMPLATES = "additional_chat_templates"


def auxiliary_files(directory: Path) -> list[Path]:
    """Return all regular files but config.json, weights of any kind, descriptions and hidden files; sorted."""
    files = [file for file in directory.iterdir() if file.is_file() and _is_auxiliary(file.name)]
    templates = directory / _TEMPLATES
    if templates.is_dir():
        files += [file for file in templates.iterdir() if file.is_file()]
    return sorted(files)


def copy_auxiliary_files(source: Path, target: Path) -> None:
    for file in auxiliary_files(source):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def _is_auxiliary(name: str) -> bool:
    described = name.startswith("quant_model_description") and name.endswith(".json")
    return not (name == "config.json" or name.startswith(".") or name.endswith(_WEIGHTS) or described)


def copy_directory(source: Path, save_directory: str | Path, **options: Any) -> None:
    """Copy the quantized model `source` to `save_directory`, which must not exist yet or be empty.

    A model is saved as the bytes that it was loaded from: nothing else gives it again. options: of transformers'
    save_pretrained, of which those that would change or send the files are refused. Raises UsageError and
    CheckpointError.
    """
    if options.get("push_to_hub"):
        raise UsageError(f"{save_directory}: a quantized model is not sent to a hub; upload the directory {source}")
    if options.get("state_dict") is not None:
        raise UsageError(f"{save_directory}: a quantized model is saved as it was loaded, without a state_dict")
    out = Path(save_directory)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    if not source.is_dir():
        raise CheckpointError(f"{source}: is gone, from which the model was loaded and would be copied")
    staging = create_staging(out)
    try:
        files = [file for file in source.rglob("*") if file.is_file() and not _hidden(file.relative_to(source))]
        with writing(staging, lambda: sum(file.stat().st_size for file in files)):
            for file in files:
                copy = staging / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    except BaseException:
        discard(staging)
        raise
    publish(staging, out)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
