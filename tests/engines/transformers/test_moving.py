"""Quantized models on their way to a CUDA device, as far as it can be gone without one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tilepress
from quantized_models import make_w8a8s
from tilepress import BitstreamError, UsageError
from tilepress.engines.transformers.loading import to_cuda
from tiny_models import make_tiny_qwen3


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8S directory whose head and embedding are one table."""
    path = tmp_path_factory.mktemp("tied")
    return make_w8a8s(make_tiny_qwen3(path / "float", tied=True), path / "w8a8s", shared=True)


@pytest.mark.parametrize(("form", "index"), [("stored", torch.int8), ("fast", torch.int32)])
def test_everything_moves_and_a_shared_table_stays_one(tied: Path, form: str, index: torch.dtype) -> None:
    model, _ = tilepress.load(tied, resident=form)
    moved = to_cuda(model, torch.device("meta"))
    assert {tensor.device.type for tensor in (*moved.parameters(), *moved.buffers())} == {"meta"}
    embedding, head = moved.get_input_embeddings(), moved.get_output_embeddings()
    assert embedding.weight is head.weight
    assert embedding.index is head.index
    assert head.index.dtype is model.model.layers[0].mlp.down_proj.index.dtype is index
    assert all(operand.device.type == "meta" for operand in head._operands)


def test_damage_is_reported_with_the_layer_before_anything_moves(tied: Path) -> None:
    model, _ = tilepress.load(tied, resident="stored")
    model.model.layers[1].mlp.down_proj.index[6] = 0x7F
    with pytest.raises(BitstreamError, match=r"model\.layers\.1\.mlp\.down_proj: tile \(0, 0\)"):
        to_cuda(model, torch.device("meta"))
    assert model.device.type == "cpu"


def test_without_triton_cuda_is_refused_before_anything_is_read(tied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in [name for name in sys.modules if name.startswith("tilepress.kernels.triton")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UsageError, match="need Triton"):
        tilepress.load(tied, device="cuda")


def test_compressed_weights_are_refused_on_an_npu(tied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tilepress.engines.transformers.loading.resolve_device", lambda name: SimpleNamespace(type=name)
    )
    with pytest.raises(UsageError, match="on cpu and cuda only"):
        tilepress.load(tied, device="npu")
