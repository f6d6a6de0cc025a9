"""Embedding and head in the 16 bits they are stored in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tilepress
from quantized_models import make_w8a8s
from tilepress.engines.transformers.compressed_embedding import StoredEmbedding, StoredHead
from tiny_models import make_tiny_qwen3


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def table(request: pytest.FixtureRequest) -> torch.Tensor:
    return (torch.randn(5000, 48, generator=torch.Generator().manual_seed(0)) * 0.1).to(request.param)


def test_rows_are_looked_up_exactly(table: torch.Tensor) -> None:
    ids = torch.tensor([[0, 4999], [17, 17]])
    rows = StoredEmbedding(table, torch.float32)(ids)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, table.float()[ids])


def test_several_positions_are_multiplied_in_float32(table: torch.Tensor) -> None:
    x = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(StoredHead(table)(x), x @ table.float().T, atol=1e-5, rtol=1e-5)


def test_a_single_position_is_close_and_keeps_its_type(table: torch.Tensor) -> None:
    x = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(1))
    logits, exact = StoredHead(table)(x), x @ table.float().T
    assert logits.dtype == torch.float32
    assert float((logits - exact).std() / exact.std()) < (0.001 if table.dtype == torch.float16 else 0.005)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_quantized_models_hold_their_tables_once_and_in_16_bits(tied: bool, tmp_path: Path) -> None:
    quantized = make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=tied), tmp_path / "w8a8s")
    model, _ = tilepress.load(quantized)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.weight.dtype == head.weight.dtype == torch.float16
    assert (embedding.weight.data_ptr() == head.weight.data_ptr()) == tied
    assert model.dtype == torch.float32
    assert repr(head) == "StoredHead(in_features=64, out_features=320, torch.float16)"
    assert repr(embedding) == "StoredEmbedding(320, 64, torch.float16)"


def test_a_16_bit_model_has_ordinary_ones(tmp_path: Path) -> None:
    quantized = make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=True), tmp_path / "w8a8s")
    model, _ = tilepress.load(quantized, dtype="bfloat16")
    assert isinstance(model.lm_head, torch.nn.Linear)
    assert model.lm_head.weight is model.model.embed_tokens.weight
