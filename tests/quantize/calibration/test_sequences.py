"""How documents become token sequences."""

from __future__ import annotations

import pytest

from tilepress.errors import QuantizationError
from tilepress.quantize.calibration.sequences import token_sequences
from tilepress.text import start_token
from tiny_models import byte_level_tokenizer

IM_START = 256


def test_each_sequence_begins_with_the_chat_templates_first_token() -> None:
    tokens = token_sequences(byte_level_tokenizer(), ["abcdefgh" * 40], samples=3, length=64, vocabulary=320)

    assert tokens.shape == (3, 64)
    assert tokens[:, 0].tolist() == [IM_START] * 3
    assert byte_level_tokenizer().decode(tokens[1, 1:4]) == ("abcdefgh" * 40)[63:66]


def test_the_start_token_is_bos_without_a_chat_template_and_none_without_both() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None
    assert start_token(tokenizer) is None

    tokenizer.bos_token = "<|endoftext|>"
    assert start_token(tokenizer) == tokenizer.bos_token_id


def test_short_text_gives_fewer_or_shorter_sequences() -> None:
    tokenizer = byte_level_tokenizer()

    assert token_sequences(tokenizer, ["x" * 200], samples=9, length=64, vocabulary=320).shape == (3, 64)
    assert token_sequences(tokenizer, ["x" * 40], samples=9, length=64, vocabulary=320).shape == (1, 43)


def test_text_beyond_what_is_needed_is_not_read() -> None:
    def documents() -> object:
        yield "x" * 100
        raise AssertionError("read too far")

    assert token_sequences(byte_level_tokenizer(), documents(), samples=2, length=32, vocabulary=320).shape == (2, 32)


def test_hardly_any_text_is_refused() -> None:
    with pytest.raises(QuantizationError, match="only 7 tokens"):
        token_sequences(byte_level_tokenizer(), ["short"], samples=2, length=64, vocabulary=320)


def test_a_foreign_tokenizer_is_refused() -> None:
    with pytest.raises(QuantizationError, match="only 100 embeddings"):
        token_sequences(byte_level_tokenizer(), ["y" * 100], samples=2, length=64, vocabulary=100)
