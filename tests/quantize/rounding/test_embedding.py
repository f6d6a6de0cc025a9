"""The embedding table, rounded to nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from reference_model import logits_of, reference_model
from tilepress.checkpoint import EMBEDDING, FloatCheckpoint, W8A8SCheckpoint
from tilepress.errors import UsageError
from tilepress.quantize import Recipe, quantize_checkpoint
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.rounding import embedding as embedding_module
from tilepress.quantize.rounding.embedding import EmbeddingTable, embedding_table, quantize_embedding, typical_tokens
from tiny_models import VOCABULARY, make_tiny_llama, make_tiny_qwen3


@pytest.fixture
def decoder(tiny_qwen3: Path) -> LayerwiseDecoder:
    return LayerwiseDecoder(FloatCheckpoint(tiny_qwen3), torch.device("cpu"))


def unread(decoder: LayerwiseDecoder) -> EmbeddingTable:
    """A table of which the calibration text told nothing: all tokens alike."""
    return EmbeddingTable(decoder, torch.ones(VOCABULARY))


def test_half_of_the_sensitivity_goes_by_the_text_and_half_is_even(decoder: LayerwiseDecoder) -> None:
    tokens = torch.tensor([[9, 5, 5, 7], [9, 7, 5, 6], [9, 5, 5, 5]])
    squares = torch.tensor([[100.0, 1.0, 2.0, 3.0], [200.0, 4.0, 5.0, 6.0]])

    sensitivity = embedding_table(decoder, tokens, typical_tokens(decoder, tokens[:2]), squares).sensitivity

    mean = 21.0 / 6  # without the start tokens
    share = {9: 3 / 12, 5: 6 / 12, 7: 2 / 12, 6: 1 / 12, 100: 0.0}
    for token, p in share.items():
        assert float(sensitivity[token]) == pytest.approx(mean * (p + 1 / VOCABULARY) / 2)
    assert float(sensitivity.sum()) == pytest.approx(mean)


@pytest.mark.parametrize("row", [0.0, 1e-7])
def test_a_row_next_to_zero_does_not_decide_for_all(tmp_path: Path, row: float) -> None:
    """The norm divides by it, so that its gradient is beyond all others."""
    source = make_tiny_qwen3(tmp_path / "float")
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{EMBEDDING}.weight"][[5, 6]] = row
    save_file(tensors, file, metadata={"format": "pt"})
    decoder = LayerwiseDecoder(FloatCheckpoint(source), torch.device("cpu"))
    tokens = torch.tensor([[9, 5, 8, 7], [9, 7, 6, 8]])
    squares = torch.tensor([[100.0, 1e9, 2.0, 3.0], [200.0, 4.0, 1e12, 3.0]])

    sensitivity = embedding_table(decoder, tokens, typical_tokens(decoder, tokens), squares).sensitivity

    assert float(sensitivity.sum()) == pytest.approx(12.0 / 4)


def test_a_table_of_zeros_has_no_sensitivity(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float")
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{EMBEDDING}.weight"].zero_()
    save_file(tensors, file, metadata={"format": "pt"})
    decoder = LayerwiseDecoder(FloatCheckpoint(source), torch.device("cpu"))
    tokens = torch.tensor([[9, 5, 8, 7]])
    typical = typical_tokens(decoder, tokens)
    assert not typical.any()
    assert float(embedding_table(decoder, tokens, typical, torch.full((1, 4), 1e9)).sensitivity.sum()) == 0.0


@pytest.mark.slow
def test_the_reports_loss_stays_sane_where_rows_that_are_read_are_zero(tmp_path: Path, calibration: Path) -> None:
    losses = []
    for rows in (0, 200):
        source = make_tiny_qwen3(tmp_path / f"float-{rows}", tied=False)
        file = source / "model.safetensors"
        tensors = load_file(file)
        tensors[f"{EMBEDDING}.weight"][:rows] = 0.0
        save_file(tensors, file, metadata={"format": "pt"})
        recipe = Recipe(head=True, embeddings=True, samples=6, sequence_length=64, distill_steps=0)
        report = quantize_checkpoint(FloatCheckpoint(source), tmp_path / f"out-{rows}", recipe, calibration=calibration)
        losses.append(sum(linear.loss for linear in report.linears))
    assert losses[1] < 3 * losses[0]


def test_tokens_that_are_read_often_have_finer_steps(decoder: LayerwiseDecoder) -> None:
    often = torch.ones(VOCABULARY)
    often[7] = 16.0

    quantized, _ = quantize_embedding(EmbeddingTable(decoder, often), 4.0, torch.Generator().manual_seed(0))

    assert float(quantized.weight_scale[3] / quantized.weight_scale[7]) == pytest.approx(4.0)
    assert torch.equal(quantized.weight_scale[8:].unique(), quantized.weight_scale[3:4])


@pytest.mark.parametrize("bits", [3.0, 4.0, 6.0])
def test_rows_alike_share_the_step_that_meets_the_bits(decoder: LayerwiseDecoder, bits: float) -> None:
    table = decoder.load(f"{EMBEDDING}.weight")
    quantized, report = quantize_embedding(unread(decoder), bits, torch.Generator().manual_seed(0))
    assert report.bits == pytest.approx(bits, abs=0.05)
    assert quantized.weight_scale.unique().numel() == 1
    step = quantized.weight_scale[:, None]
    assert bool(((quantized.weight * step - table).abs() <= step * 0.501).all())
    error = (quantized.weight * step - table).square().sum() / table.square().sum()
    assert report.relative_error == pytest.approx(float(error), rel=1e-4)


def test_rows_that_would_not_fit_8_bits_have_larger_steps(
    decoder: LayerwiseDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = decoder.load(f"{EMBEDDING}.weight").clone()
    table[7] *= 1000
    monkeypatch.setattr(decoder, "load", lambda name, start, stop: table[start:stop])
    quantized, _ = quantize_embedding(unread(decoder), 4.0, torch.Generator().manual_seed(0))
    assert float(quantized.weight_scale[7]) == pytest.approx(float(table[7].abs().max()) / 127)
    assert int(quantized.weight[7].abs().max()) == 127
    assert quantized.weight_scale.unique().numel() == 2


def test_blocks_of_rows_change_nothing(decoder: LayerwiseDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, of_whole = quantize_embedding(unread(decoder), 4.0, torch.Generator().manual_seed(0))
    monkeypatch.setattr(embedding_module, "ROWS", 100)
    blocks, of_blocks = quantize_embedding(unread(decoder), 4.0, torch.Generator().manual_seed(0))
    assert torch.equal(whole.weight, blocks.weight)
    assert torch.equal(whole.weight_scale, blocks.weight_scale)
    assert of_whole.bits == of_blocks.bits


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_llama])
def test_a_whole_model_with_its_embedding(make, head: bool, calibration: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "float", tied=False)
    recipe = Recipe(bits=6.0, head=head, embeddings=True, samples=6, sequence_length=64)
    report = quantize_checkpoint(FloatCheckpoint(source), tmp_path / "out", recipe, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    assert made.is_quantized(EMBEDDING)
    assert made.is_quantized("lm_head") == head
    assert (report.linears[-1].name, report.linears[-1].weights) == (EMBEDDING, VOCABULARY * 64)
    assert report.bits == pytest.approx(6.0, abs=0.3)
    exact = logits_of(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    quantized = logits_of(reference_model(source, tmp_path / "out"))
    assert float((quantized - exact).std() / exact.std()) < 0.2


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_llama])
def test_the_head_of_a_tied_model_stays_its_embedding(make, calibration: Path, tmp_path: Path) -> None:
    source = make(tmp_path / "float", tied=True)
    recipe = Recipe(bits=6.0, head=True, embeddings=True, samples=6, sequence_length=64)
    report = quantize_checkpoint(FloatCheckpoint(source), tmp_path / "out", recipe, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    assert made.shares_table
    assert report.linears[-1].name == "lm_head", "one table, counted once"
    embedding, table = made.embedding(), FloatCheckpoint(source).tensor("model.embed_tokens.weight").float()
    rows = embedding.weight * embedding.weight_scale[:, None]
    assert float((rows - table).std() / table.std()) < 0.1
    exact = logits_of(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    quantized = logits_of(reference_model(source, tmp_path / "out"))
    assert float((quantized - exact).std() / exact.std()) < 0.2


def test_without_it_the_embedding_stays_float(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(
        FloatCheckpoint(tiny_qwen3), tmp_path / "out", Recipe(samples=4, sequence_length=64), calibration=calibration
    )
    assert not W8A8SCheckpoint(tmp_path / "out").is_quantized(EMBEDDING)
    assert EMBEDDING not in {linear.name for linear in report.linears}


def test_a_tied_head_has_to_be_quantized_with_it(tmp_path: Path) -> None:
    source = FloatCheckpoint(make_tiny_qwen3(tmp_path / "float", tied=True))
    with pytest.raises(UsageError, match=r"the head is tied to the embedding.*--embeddings --head"):
        quantize_checkpoint(source, tmp_path / "out", Recipe(embeddings=True))
    assert not (tmp_path / "out").exists()
