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


def copy_directory(
    source: Path, save_directory: str | Path, is_main_process: bool = True, state_dict: Any = None, **options: Any
) -> None:
    """Copy the quantized model `source` to `save_directory`, as transformers' save_pretrained is called.

    A model is saved as the bytes that it was loaded from: nothing else gives it again. Auxiliary files that are there
    already, such as a tokenizer that was saved before, stay; a model that is there is refused. options: others of
    save_pretrained; those that would send the files are refused. Raises UsageError and CheckpointError.
    """
    if options.get("push_to_hub"):
        raise UsageError(f"{save_directory}: a quantized model is not sent to a hub; upload the directory {source}")
    if state_dict is not None:
        raise UsageError(f"{save_directory}: a quantized model is saved as it was loaded, without a state_dict")
    if not is_main_process:
        return
    if not source.is_dir():
        raise CheckpointError(f"{source}: is gone, from which the model was loaded and would be copied")
    out = Path(save_directory)
    kept = [file.relative_to(out) for file in out.rglob("*") if file.is_file()] if out.is_dir() else []
    if wrong := next((file for file in kept if not _is_auxiliary(file.name)), None):
        raise CheckpointError(f"{out}: exists already, with {wrong}; choose a new directory")
    staging = create_staging(out.with_name(f"{out.name}.saving") if kept else _emptied(out))
    try:
        files = [file for file in source.rglob("*") if file.is_file() and not _hidden(file.relative_to(source))]
        with writing(staging, lambda: sum(file.stat().st_size for file in files)):
            for place, file in ((file.relative_to(source), file) for file in files):
                (staging / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(out / place if place in kept else file, staging / place)
            for place in set(kept) - {file.relative_to(source) for file in files}:
                (staging / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(out / place, staging / place)
        if kept:
            shutil.rmtree(out)
    except BaseException:
        discard(staging)
        raise
    publish(staging, out)


def _emptied(out: Path) -> Path:
    """Remove the directory where it is empty."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    return out


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
