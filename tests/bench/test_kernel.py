"""Measuring the kernel: every figure follows from the times, whatever these are."""

from __future__ import annotations

import json

import pytest

from tilepress.bench.codec import gaussian_weights
from tilepress.bench.kernel import Row, measure
from tilepress.bench.machine import Machine, describe_machine
from tilepress.cli import main


@pytest.fixture(scope="module")
def machine() -> Machine:
    return describe_machine([1, 2], nbytes=1 << 20, repeats=2)


@pytest.fixture(scope="module")
def rows(machine: Machine) -> list[Row]:
    small = {"repeats": 2, "ring_bytes": 1 << 16, "slice_seconds": 1e-3}
    return list(measure(machine, shapes=[(64, 128)], batches=(1, 3), **small))


def test_a_row_for_each_shape_batch_and_number_of_threads(rows: list[Row]) -> None:
    assert [(row.n, row.k, row.batch, row.threads) for row in rows] == [
        (64, 128, 1, 1),
        (64, 128, 1, 2),
        (64, 128, 3, 1),
        (64, 128, 3, 2),
    ]


def test_figures_agree_with_the_times(rows: list[Row], machine: Machine) -> None:
    for row in rows:
        weights = row.n * row.k
        assert row.ours.gigabytes_per_second == pytest.approx(weights * row.bits_per_weight / 8e9 / row.ours.seconds)
        for speed in (row.ours, *row.peers):
            assert speed.gigaweights_per_second == pytest.approx(weights / 1e9 / speed.seconds)
            assert speed.of_bandwidth == pytest.approx(
                speed.gigabytes_per_second * 1e9 / machine.bandwidth[row.threads]
            )


def test_ours_is_compared_with_the_fastest_of_each_kind(rows: list[Row]) -> None:
    for row in rows:
        assert {peer.kind for peer in row.peers} == set(row.times_faster)
        assert "torch float" in row.times_faster
        for kind, times in row.times_faster.items():
            assert times == min(peer.seconds for peer in row.peers if peer.kind == kind) / row.ours.seconds
        assert [row.times_faster[peer.kind] for peer in row.fastest_peers()] == [
            peer.seconds / row.ours.seconds for peer in row.fastest_peers()
        ]
        assert (row.times_batch_1 == 1) == (row.batch == 1)


def test_weights_are_a_gaussian_with_outliers() -> None:
    matrix = gaussian_weights(256, 1024, 2.0)
    assert 2.0 < matrix.std() < 2.6
    assert 0.002 < (abs(matrix) > 10).mean() < 0.005


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tilepress.bench.machine.describe_machine", lambda threads: machine)
    monkeypatch.setattr("tilepress.bench.kernel.QUICK", {"shapes": [(64, 128)], "batches": [8], "ring_bytes": 1 << 14})
    command = ["bench", "kernel", "--quick", "--repeats", "1"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["machine"]["bandwidth"]) == ["1", "2"]
    assert [row["threads"] for row in result["rows"]] == [1, 2]
    figures = {"seconds", "gigaweights_per_second", "gigabytes_per_second", "of_bandwidth"}
    assert figures <= result["rows"][0]["ours"].keys()
    assert main(command) == 0
    assert "64 x 128, 1 thread, batch 8" in capsys.readouterr().out
