"""The functions of the package, as docs/guides/python.md shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tilepress
from quantized_models import make_w8a8s
from tilepress.quantize import Recipe


def test_from_a_float_model_to_its_evaluation(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = tilepress.quantize(
        tiny_qwen3,
        tmp_path / "w8a8s",
        bits=5.0,
        samples=4,
        sequence_length=64,
        float_linears=["down_proj"],
        calibration=calibration,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report.bits == pytest.approx(5.0, abs=0.4)
    assert report.recipe.float_linears == tuple(f"model.layers.{layer}.mlp.down_proj" for layer in range(2))
    assert seen[-1][0] == seen[-1][1]
    made = tilepress.compress(tmp_path / "w8a8s", tmp_path / "w8a8sc", tp=2)
    assert (made.parts, made.nbytes > 0) == (2, True)
    summary = tilepress.inspect(made.path)
    assert (summary.kind, summary.tp) == ("w8a8sc", 2)
    found = tilepress.evaluate(made.path, against=tiny_qwen3, texts={"mine": "A text. " * 40}, tokens=64)
    assert found.texts["mine"].kl < 0.2
    for result in (report, made, summary, found):
        assert json.loads(json.dumps(result.as_dict()))
        assert len(str(result).splitlines()) == 1
    alone = tilepress.evaluate(tmp_path / "w8a8s", texts={"a": "One text. " * 20, "b": "Another. " * 20}, tokens=32)
    assert str(alone).splitlines()[1].startswith("b: perplexity")


def test_settings_that_cannot_be_are_refused(tiny_qwen3: Path, tmp_path: Path) -> None:
    with pytest.raises(tilepress.UsageError, match="bits is 9"):
        tilepress.quantize(tiny_qwen3, tmp_path / "out", bits=9)
    with pytest.raises(tilepress.UsageError, match=r"'bit'.*fields of tilepress.quantize.Recipe"):
        tilepress.quantize(tiny_qwen3, tmp_path / "out", bit=4)
    quantized = make_w8a8s(tiny_qwen3, tmp_path / "w8a8s")
    with pytest.raises(tilepress.UsageError, match="quantized already"):
        tilepress.quantize(quantized, tmp_path / "out")


def test_packages_stay_packages() -> None:
    """And can be called in either order of imports: this module imported one of them after tilepress."""
    assert Recipe.__module__ == "tilepress.quantize.recipe.recipe"
    assert callable(tilepress.quantize)
    assert dir(tilepress) == sorted(tilepress.__all__)
