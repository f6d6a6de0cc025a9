"""Measuring the codec: sizes are exact, and there is a speed for each number of threads."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tilepress import codec
from tilepress.bench.codec import DEVIATIONS, measure, measure_checkpoint, measure_size
from tilepress.bench.machine import describe_machine
from tilepress.cli import main
from tilepress.errors import UsageError


def test_size_beside_the_entropy_of_tiles() -> None:
    constant = np.full((128, 256), 3, np.int8)
    bytes_of_all_kinds = np.arange(1 << 14, dtype=np.uint8).view(np.int8).reshape(64, 256)
    matrix = np.concatenate([constant, bytes_of_all_kinds])
    compressed = codec.encode(matrix)
    size = measure_size([compressed, compressed])
    assert size.matrices == 2
    assert size.weights == 2 * matrix.size
    assert size.bits_per_weight == 8 * compressed.nbytes / matrix.size
    assert size.entropy == pytest.approx(8 / 3)  # 0 bits for two thirds of the weights, 8 for one
    assert size.entropy_of_tiles == pytest.approx(4)
    assert size.ratio == pytest.approx(size.bits_per_weight * 3 / 8)


def test_a_row_for_each_deviation() -> None:
    rows = list(measure(shape=(128, 256), copies=2, threads=[1, 2], repeats=1, deviations=[1.0, 4.0]))
    assert [row.deviation for row in rows] == [1.0, 4.0]
    for row in rows:
        assert [speed.threads for speed in row.speeds] == [1, 2]
        assert all(rate > 0 for speed in row.speeds for rate in (speed.encode, speed.decode, speed.decode_new))
        assert 1 < row.size.ratio < 1.2
        assert row.as_dict()["size"]["ratio"] == row.size.ratio
    assert rows[0].size.entropy < rows[1].size.entropy


def test_only_compressed_directories_have_a_compressed_size(tiny_qwen3) -> None:
    with pytest.raises(UsageError, match="make one with `tilepress compress`"):
        measure_checkpoint(tiny_qwen3)


def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = describe_machine([1], nbytes=1 << 20, repeats=2)
    monkeypatch.setattr("tilepress.bench.machine.describe_machine", lambda threads: machine)
    monkeypatch.setattr("tilepress.bench.codec.QUICK", {"shape": (128, 256), "copies": 2})
    command = ["bench", "codec", "--quick", "--repeats", "1"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["deviation"] for row in rows] == list(DEVIATIONS)
    assert main(command) == 0
    assert "s = 1.25, 1 thread" in capsys.readouterr().out
