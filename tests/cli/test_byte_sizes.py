"""Sizes as people write them."""

from __future__ import annotations

import pytest

from tilepress.cli.console import parse_bytes
from tilepress.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("90MB", 90_000_000),
        ("90 mb", 90_000_000),
        ("1.5GB", 1_500_000_000),
        ("512KB", 512_000),
        ("800MiB", 800 << 20),
        ("2GiB", 2 << 30),
        ("1234", 1234),
        ("1234B", 1234),
    ],
)
def test_units_are_decimal_or_binary(text: str, size: int) -> None:
    assert parse_bytes("--size", text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "90 apples", "1e9", "90M"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--size .*: no size; write one such as 90MB"):
        parse_bytes("--size", text)
