"""What the user is told when a quantization was cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilepress.cli import main


def quant(source: Path, out: Path, calibration: Path, *options: str) -> int:
    words = ["quant", "-m", str(source), "-o", str(out), "--calib", str(calibration)]
    return main([*words, "--samples", "4", "--sequence-length", "64", "--distill-steps", "0", *options])


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    file = tmp_path / "calibration.txt"
    file.write_text("\n\n".join(f"the user wrote {number} and the model read it" for number in range(40)))
    return file


def test_an_error_after_some_work_says_where_it_is_kept(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert quant(tiny_qwen3, out, calibration, "--bits", "7.5") == 2
    said = capsys.readouterr().err
    assert "cannot be met" in said
    assert f"what is finished before it is in {tmp_path / '.out.quant'}: other options need --restart" in said
    assert "the same command" not in said, "which would fail as before"

    assert quant(tiny_qwen3, out, calibration, "--bits", "4") == 2
    said = capsys.readouterr().err
    assert "recipe bits was 7.5, is 4.0" in said
    assert "is kept" not in said, "the same command is not what helps"

    assert quant(tiny_qwen3, out, calibration, "--bits", "4", "--restart") == 0
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out"]


def test_an_error_before_any_work_leaves_nothing(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quant(tiny_qwen3, tmp_path / "out", calibration, "--max-memory", "1MB") == 2
    said = capsys.readouterr().err
    assert "--max-memory" in said
    assert "kept" not in said
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == []
