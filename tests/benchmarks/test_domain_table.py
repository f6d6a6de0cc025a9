"""The table of texts, with two short ones in place of those that are downloaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.quality import domain_table

import tilepress

TEXTS = {"code": "for (int i = 0; i < n; ++i) sum += x[i];\n" * 30, "prose": "The river runs down to the sea. " * 40}


def table(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(domain_table, "domain_texts", lambda *_: TEXTS)
    monkeypatch.setattr(sys, "argv", ["domain_table", *map(str, words)])
    domain_table.main()


def test_rows_have_bytes_and_the_divergence_on_each_text_and_are_kept(
    w8a8sc: Path,
    tiny_qwen3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (tmp_path / "texts", w8a8sc, "--model", tiny_qwen3, "--chunks", 2, "--json", tmp_path / "rows.json")
    table(monkeypatch, *words, "--plot", tmp_path / "plot.svg")

    printed = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["name"] == f"tilepress {w8a8sc.name}"
    assert row["kl"].keys() == TEXTS.keys()
    assert all(0 < kl < 0.1 for kl in row["kl"].values())
    assert f"| {row['megabytes']:.1f} |" in printed
    assert (tmp_path / "texts" / "prose.txt").read_text() == TEXTS["prose"]
    assert w8a8sc.name in (tmp_path / "plot.svg").read_text()

    monkeypatch.setattr(tilepress, "load", None)
    table(monkeypatch, *words)
    assert capsys.readouterr().out == printed, "kept, not measured again"
