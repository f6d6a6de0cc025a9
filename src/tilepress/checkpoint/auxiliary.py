"""Auxiliary files: all in a checkpoint directory beside config, weights and description, such as the tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

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
