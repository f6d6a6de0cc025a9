"""The vendor's W8A8_DYNAMIC: read, compressed, run, and equal to its formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from quantized_directories import edit_tensors, stored_tensors, write_dynamic
from reference_model import logits_of
from tilepress import load
from tilepress.checkpoint import W8A8SCheckpoint
from tilepress.checkpoint.convert import convert_directory
from tilepress.checkpoint.targets import VENDOR
from tilepress.cli import main
from tilepress.compress import compress_directory, verify
from tilepress.errors import CheckpointError
from tiny_models import make_tiny_qwen2, make_tiny_qwen3

WEIGHTS = "quant_model_weights.safetensors"
Q = "model.layers.0.self_attn.q_proj"


class DynamicLinear(torch.nn.Module):
    """What the vendor's engines compute: a scale for each token, and for each row of the weight."""

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.weight_scale, self.bias = weight, weight_scale, bias

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(dim=-1, keepdim=True) / 127
        y = torch.round(x / scale) @ self.weight.float().T * scale * self.weight_scale.flatten()
        return y if self.bias is None else y + self.bias


def formula(source: Path, directory: Path) -> Tensor:
    """Logits of the float model with `DynamicLinear`s in it."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tensors = stored_tensors(directory)
    for name in [name.removesuffix("_scale") for name in tensors if name.endswith(".weight_scale")]:
        prefix = name.removesuffix(".weight")
        bias = tensors.get(f"{prefix}.bias")
        linear = DynamicLinear(tensors[name], tensors[f"{name}_scale"], None if bias is None else bias.float())
        model.set_submodule(prefix, linear)
    return logits_of(model)


def test_a_linear_computes_its_formula(tmp_path: Path) -> None:
    theirs = write_dynamic(tmp_path / "theirs", make_tiny_qwen2(tmp_path / "float", heads=4, kv_heads=2))
    tensors, model = stored_tensors(theirs), load(theirs, dtype=torch.float32)[0]
    parts = (tensors[f"{Q}.{leaf}"] for leaf in ("weight", "weight_scale", "bias"))
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.get_submodule(Q)(x), DynamicLinear(*parts)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2])
def test_both_directories_compute_its_formula(make: Callable[..., Path], tmp_path: Path) -> None:
    source = make(tmp_path / "float", heads=4, kv_heads=2)
    theirs = write_dynamic(tmp_path / "theirs", source)
    expected = formula(source, theirs)
    found = [logits_of(load(theirs, dtype=torch.float32)[0])]
    for tp in (1, 2):
        compress_directory(theirs, tmp_path / f"{tp}", tp=tp)
        assert verify(theirs, tmp_path / f"{tp}").same
        found.append(logits_of(load(tmp_path / f"{tp}", dtype=torch.float32)[0]))
    for logits in found:
        # A difference in the last bit moves an activation by a whole step now and then.
        assert float((logits - expected).norm() / expected.norm()) < 0.01
    assert torch.equal(found[0], found[1])


def test_it_is_inspected_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = write_dynamic(tmp_path / "theirs", make_tiny_qwen3(tmp_path / "float"))
    assert main(f"compress --model-path {theirs} --save-directory {tmp_path / 'c'}".split()) == 0
    for folder in (theirs, tmp_path / "c"):
        capsys.readouterr()
        assert main(f"inspect {folder} --json".split()) == 0
        assert json.loads(capsys.readouterr().out)["types"]["W8A8_DYNAMIC"]["tensors"] > 0
        assert main(f"run -m {folder} --max-new-tokens 4 --json".split()) == 0
        assert 1 <= json.loads(capsys.readouterr().out)["new_tokens"] <= 4


def test_it_is_not_made_into_another_form(tmp_path: Path) -> None:
    theirs = write_dynamic(tmp_path / "theirs", make_tiny_qwen3(tmp_path / "float"))
    with pytest.raises(CheckpointError, match="is W8A8_DYNAMIC, which has no static range"):
        convert_directory(theirs, tmp_path / "out", VENDOR)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors[f"{Q}.weight_scale"].fill_(0.0), "weight_scale has a value that is not positive"),
        (lambda tensors: tensors[f"{Q}.weight_scale"].fill_(torch.nan), "weight_scale has a value"),
        (lambda tensors: tensors[f"{Q}.bias"].fill_(torch.inf), "bias has a value that is not finite"),
        (lambda tensors: tensors[f"{Q}.weight_offset"].fill_(1.0), "weight_offset is not 0"),
        (lambda tensors: tensors.pop(f"{Q}.weight_scale"), "q_proj.weight_scale"),
    ],
)
def test_damage_is_named(change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path) -> None:
    theirs = write_dynamic(tmp_path / "theirs", make_tiny_qwen2(tmp_path / "float", heads=4, kv_heads=2))
    edit_tensors(theirs / WEIGHTS, change)
    with pytest.raises(CheckpointError, match=message):
        W8A8SCheckpoint(theirs).linear(Q)
