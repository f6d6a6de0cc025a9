"""One rule for the tensors of W8A8S directories and W8A8SC parts: the same fault, the same words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quantized_directories import edit_json, edit_tensors
from tilepress.checkpoint import open_checkpoint
from tilepress.compress import compress_directory
from tilepress.errors import CheckpointError

O_PROJ = "model.layers.0.self_attn.o_proj"
DESCRIPTION = "quant_model_description.json"

Change = Callable[[torch.Tensor], torch.Tensor | None]
FAULTS: dict[str, tuple[str, Change]] = {
    "a scale is missing": (f"{O_PROJ}.input_scale", lambda t: None),
    "a bias is missing": (f"{O_PROJ}.quant_bias", lambda t: None),
    "a bias is too short": (f"{O_PROJ}.quant_bias", lambda t: t[:-1]),
    "a scale is of another type": (f"{O_PROJ}.deq_scale", lambda t: t.int()),
    "an offset is of another type": (f"{O_PROJ}.input_offset", lambda t: t.long()),
    "a norm is missing": ("model.norm.weight", lambda t: None),
    "a norm is of another type": ("model.norm.weight", lambda t: t.int()),
}


def both_kinds(w8a8s: Path, tmp_path: Path) -> list[Path]:
    """The files of weights of a W8A8S directory and of the one part that compress makes of it."""
    compress_directory(w8a8s, tmp_path / "compressed", tp=1)
    return [*w8a8s.glob("*.safetensors"), *(tmp_path / "compressed").glob("part0-of-1/*.safetensors")]


def refusal(directory: Path, file: Path) -> str:
    """What opening says, without the file's path."""
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(directory)
    assert str(file.parent) in str(refused.value)
    return re.sub(rf"^{file.parent}\S*: ", "", str(refused.value))


@pytest.mark.parametrize(("name", "change"), FAULTS.values(), ids=FAULTS)
def test_a_damaged_tensor_is_refused_alike(w8a8s_copy: Path, tmp_path: Path, name: str, change: Change) -> None:
    said = []
    for file in both_kinds(w8a8s_copy, tmp_path):

        def edit(tensors: dict[str, torch.Tensor]) -> None:
            changed = change(tensors.pop(name))
            if changed is not None:
                tensors[name] = changed.clone()

        edit_tensors(file, edit)
        said.append(refusal(tmp_path / "compressed" if "part" in file.parent.name else w8a8s_copy, file))
    assert name in said[0]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", [f"{O_PROJ}.deq_scale", "model.norm.weight"])
def test_a_tensor_that_the_description_does_not_have_is_refused_alike(
    w8a8s_copy: Path, tmp_path: Path, name: str
) -> None:
    said = []
    for file in both_kinds(w8a8s_copy, tmp_path):
        edit_json(file.parent / DESCRIPTION, lambda description: description.pop(name))
        said.append(refusal(tmp_path / "compressed" if "part" in file.parent.name else w8a8s_copy, file))
    assert name in said[0]
    assert said[0] == said[1]
