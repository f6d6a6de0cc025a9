from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from quantized_directories import stored_tensors
from tilepress import codec
from tilepress.checkpoint import open_checkpoint, summarize
from tilepress.checkpoint.summary import TensorCount
from tilepress.errors import CheckpointError


def test_a_float_model(tiny_qwen3: Path) -> None:
    summary = summarize(open_checkpoint(tiny_qwen3))
    assert (summary.kind, summary.architecture, summary.layers, summary.tp) == ("float", "Qwen3ForCausalLM", 2, 1)
    tensors = stored_tensors(tiny_qwen3)
    assert summary.types == {"FLOAT": TensorCount(len(tensors), sum(tensor.nbytes for tensor in tensors.values()))}
    assert summary.linear_weights == 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 128 * 64)
    assert summary.quantized_weights == 0
    assert summary.bits_per_weight is summary.zeros is summary.entropy is None
    assert summary.weight_bytes == (tiny_qwen3 / "model.safetensors").stat().st_size
    assert summary.total_bytes == sum(file.stat().st_size for file in tiny_qwen3.iterdir())


def test_a_quantized_model(w8a8s: Path) -> None:
    summary = summarize(open_checkpoint(w8a8s))
    weights = [t.numpy() for name, t in stored_tensors(w8a8s).items() if name.endswith("_proj.weight")]
    count = sum(weight.size for weight in weights)
    assert summary.types["W8A8S"].tensors == 14 * 5
    assert summary.types["FLOAT"].tensors == 2 * 4 + 3
    assert summary.quantized_weights == summary.linear_weights == count
    assert summary.bits_per_weight == 8
    assert summary.zeros == sum(np.count_nonzero(weight == 0) for weight in weights) / count
    assert summary.entropy == pytest.approx(sum(codec.entropy(weight) * weight.size for weight in weights) / count)


def test_a_compressed_model(w8a8s: Path, w8a8sc: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = summarize(open_checkpoint(w8a8sc), progress=lambda done, total: seen.append((done, total)))
    quantized = summarize(open_checkpoint(w8a8s))
    assert (summary.kind, summary.tp) == ("w8a8sc", 2)
    assert {kind: count.tensors for kind, count in summary.types.items()} == {
        "FLOAT": 2 * (2 * 4 + 3),
        "W8A8SC": 2 * 8 * 3,
        "W8A8S": 2 * 8 * 4,
    }
    assert summary.quantized_weights == quantized.quantized_weights
    assert summary.zeros == quantized.zeros
    assert summary.bits_per_weight == 8 * summary.types["W8A8SC"].nbytes / summary.quantized_weights
    assert summary.bits_per_weight < 8
    assert seen[-1] == (16, 16)


@pytest.mark.parametrize(
    ("report", "loss"), [('{"loss": 0.25}', 0.25), ('{"loss": "much"}', None), ('{"by": "another tool"}', None)]
)
def test_the_loss_is_what_the_report_says(report: str, loss: float | None, w8a8s: Path, tmp_path: Path) -> None:
    assert summarize(open_checkpoint(w8a8s)).estimated_loss is None
    reported = shutil.copytree(w8a8s, tmp_path / "reported")
    (reported / "quantization_report.json").write_text(report, encoding="utf-8")
    assert summarize(open_checkpoint(reported)).estimated_loss == loss


def test_a_damaged_report_is_named(w8a8s: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(w8a8s, tmp_path / "damaged")
    (damaged / "quantization_report.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"quantization_report\.json: not valid JSON"):
        summarize(open_checkpoint(damaged))
