"""A tied model whose head and embedding are one compressed table in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tilepress
from quantized_models import make_w8a8s
from reference_model import logits_of, reference_model
from tilepress.checkpoint import EMBEDDING, QuantizedEmbedding, W8A8SCheckpoint, W8A8SWriter
from tilepress.compress import compress_directory
from tilepress.engines.transformers import generate
from tilepress.engines.transformers.compressed_embedding import CompressedEmbedding
from tilepress.engines.transformers.compressed_linear import CompressedLinear
from tiny_models import make_tiny_llama, make_tiny_qwen3


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_llama])
def test_it_computes_what_the_format_defines(make, tmp_path: Path) -> None:
    source = make(tmp_path / "float", tied=True)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", shared=True)
    for tp in (1, 2):
        compress_directory(quantized, tmp_path / f"{tp}", tp=tp)
    for dtype in (torch.float32, torch.bfloat16):
        expected = logits_of(reference_model(source, quantized, dtype))
        for directory in (quantized, tmp_path / "1", tmp_path / "2"):
            model, _ = tilepress.load(directory, dtype=dtype)
            assert torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("tp", [None, 1, 2], ids=["w8a8s", "one part", "two parts"])
def test_head_and_embedding_are_the_same_bytes(tp: int | None, tmp_path: Path) -> None:
    directory = make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=True), tmp_path / "w8a8s", shared=True)
    if tp is not None:
        compress_directory(directory, tmp_path / "w8a8sc", tp=tp)
        directory = tmp_path / "w8a8sc"
    model, _ = tilepress.load(directory)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, CompressedEmbedding)
    assert isinstance(head, CompressedLinear)
    assert embedding.weight.data_ptr() == head.weight.data_ptr()


def test_it_answers_as_the_same_integers_stored_twice(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=True)
    once = W8A8SCheckpoint(make_w8a8s(source, tmp_path / "once", levels=9, shared=True))
    with W8A8SWriter(tmp_path / "twice", once, dtype="float16") as writer:
        for prefix in once.quantized_linears():
            writer.add_linear(prefix, once.linear(prefix))
        for name in once.float_names():
            writer.add_float(name, once.float_tensor(name))
        head = once.linear("lm_head")
        writer.add_embedding(QuantizedEmbedding(head.weight.clone(), head.deq_scale / head.input_scale))
    assert W8A8SCheckpoint(tmp_path / "twice").is_quantized(EMBEDDING)
    answers = []
    for directory in (tmp_path / "once", tmp_path / "twice"):
        model, tokenizer = tilepress.load(directory)
        answers.append(generate(model, tokenizer, "Why is the sky blue?", max_new_tokens=12).text)
    assert answers[0] == answers[1]
