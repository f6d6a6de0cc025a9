"""The native attention of one token against torch's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tilepress import _native
from tilepress.kernels import attend
from tilepress.kernels.attention import attend_in_torch

LENGTHS = [0, 1, 6, 7, 8, 127, 128, 129, 300]


def operands(queries: int, heads: int, size: int, room: int = 301, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """rows, cos, sin, cache."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(size, generator=generator) * 6
    rows = torch.randn(queries + 2 * heads, size, generator=generator)
    return rows, angle.cos(), angle.sin(), torch.randn(2, 1, heads, room, size, generator=generator)


@pytest.mark.parametrize(
    ("queries", "heads", "size"),
    [(9, 3, 64), (32, 8, 128), (8, 8, 80), (5, 1, 24), (4, 2, 8)],
    ids=["SmolLM2", "Qwen3-8B", "no groups", "one head for all", "tiny"],
)
def test_agrees_with_torch(queries, heads, size):
    for length in LENGTHS:
        rows, cos, sin, cache = operands(queries, heads, size)
        expected_cache = cache.clone()
        expected = attend_in_torch(rows, cos, sin, expected_cache, length, queries)
        torch.testing.assert_close(attend(rows, cos, sin, cache, length, queries), expected, atol=3e-6, rtol=1e-5)
        torch.testing.assert_close(cache, expected_cache, atol=1e-6, rtol=1e-6)


def test_far_apart_scores():
    """Weights from 1 to 0 within and across chunks of tokens."""
    rows, cos, sin, cache = operands(6, 2, 16)
    for factor in (0.0, 1e-3, 30.0, 1e4):
        copy = cache.clone()
        expected = attend_in_torch(rows * factor, cos, sin, copy, 300, 6)
        assert torch.isfinite(expected).all()
        actual = attend(rows * factor, cos, sin, cache.clone(), 300, 6)
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


def test_the_result_does_not_depend_on_threads():
    rows, cos, sin, cache = operands(32, 8, 128)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(attend(rows, cos, sin, cache.clone(), 300, 32))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_every_instruction_set_gives_the_same_bits():
    program = (
        "import torch; from tilepress.kernels import attend; torch.manual_seed(0)\n"
        "rows, cos, sin, cache = torch.randn(15, 64), torch.randn(64), torch.randn(64), torch.randn(2, 1, 3, 400, 64)\n"
        "print(attend(rows, cos, sin, cache, 321, 9).view(torch.int32).sum().item())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TILEPRESS_ISA": isa},
        ).stdout
        for isa in _native.isas()
    }
    assert len(outputs) == 1


def test_opcheck():
    rows, cos, sin, cache = operands(6, 2, 16, room=40)
    torch.library.opcheck(torch.ops.tilepress.attend.default, (rows, cos, sin, cache, 33, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(9, 16)}, r"rows is torch.float32 \[9, 16\].*\[160\], contiguous, is needed"),
        ({"rows": torch.zeros(10, 16, dtype=torch.float64)}, "rows is torch.float64"),
        ({"cos": torch.zeros(8)}, r"cos is torch.float32 \[8\]"),
        ({"sin": torch.zeros(32)[::2]}, r"sin is torch.float32 \[16\], strides \[2\]"),
        ({"cache": torch.zeros(2, 2, 2, 40, 16)}, r"cache is \[2, 2, 2, 40, 16\]"),
        ({"cache": torch.zeros(2, 1, 2, 40, 12)}, "size a multiple of 8"),
        ({"cache": torch.zeros(2, 1, 2, 16, 40).mT}, "cache is torch.float32"),
        ({"length": 40}, "length is 40, the cache has room for 40 tokens"),
        ({"length": -1}, "length is -1"),
        ({"queries": 5}, "queries is 5, no multiple of the cache's 2 heads"),
    ],
)
def test_what_does_not_fit(change, message):
    rows, cos, sin, cache = operands(6, 2, 16, room=40)
    sound = {"rows": rows, "cos": cos, "sin": sin, "cache": cache, "length": 33, "queries": 6}
    with pytest.raises(ValueError, match=message):
        attend(**(sound | change))
