"""Measuring a whole model: `tilepress bench model` on a tiny one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quantized_models import make_w8a8s
from tilepress.bench.end_to_end import measure
from tilepress.bench.machine import Machine, describe_machine
from tilepress.checkpoint import W8A8SCCheckpoint, open_checkpoint
from tilepress.cli import main
from tilepress.compress import compress_directory
from tilepress.errors import UsageError


@pytest.fixture(scope="module")
def compressed(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    compress_directory(make_w8a8s(tiny_qwen3, folder / "w8a8s"), folder / "w8a8sc")
    return folder / "w8a8sc"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return describe_machine([1, 2], nbytes=1 << 20, repeats=2)


def test_figures_agree_with_the_times(compressed: Path, machine: Machine) -> None:
    speed = measure(compressed, threads=1, prompt_tokens=12, new_tokens=4, repeats=2)
    assert (speed.kind, speed.threads, speed.prompt_tokens, speed.new_tokens) == ("w8a8sc", 1, 12, 4)
    assert speed.prefill_tokens_per_second == pytest.approx(12 / speed.first_token_seconds)
    assert speed.gigabytes_per_second == pytest.approx(speed.weight_bytes * speed.decode_tokens_per_second / 1e9)
    assert speed.of_bandwidth(machine) == pytest.approx(speed.gigabytes_per_second * 1e9 / machine.bandwidth[1])
    twice = replace(speed, gigabytes_per_second=2 * speed.gigabytes_per_second)
    assert twice.of_bandwidth(machine) == pytest.approx(2 * speed.of_bandwidth(machine))


def test_several_answers_at_once(compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "model", "-m", str(compressed), "--prompt", "12", "--new", "4", "--repeats", "1"]
    assert main([*command, "--streams", "3", "--json"]) == 0
    speed = json.loads(capsys.readouterr().out)["model"]
    assert speed["streams"] == 3
    a_second = speed["weight_bytes"] * speed["decode_tokens_per_second"] / 3
    assert speed["gigabytes_per_second"] == pytest.approx(a_second / 1e9)


def test_an_embedding_that_is_not_the_head_is_not_read(tiny_qwen3: Path) -> None:
    speed = measure(tiny_qwen3, threads=1, prompt_tokens=4, new_tokens=2, repeats=1)
    embedding = 320 * 64 * 2  # float16 [vocabulary, hidden]
    assert speed.weight_bytes == (tiny_qwen3 / "model.safetensors").stat().st_size - embedding


def test_a_quantized_embedding_is_not_read_either(tiny_qwen3: Path, tmp_path: Path) -> None:
    quantized = make_w8a8s(tiny_qwen3, tmp_path / "w8a8s", embeddings=True)
    compress_directory(quantized, tmp_path / "w8a8sc")
    for directory in (quantized, tmp_path / "w8a8sc"):
        speed = measure(directory, threads=1, prompt_tokens=4, new_tokens=2, repeats=1)
        checkpoint = open_checkpoint(directory)
        compressed = isinstance(checkpoint, W8A8SCCheckpoint)
        embedding = checkpoint.compressed_embedding() if compressed else checkpoint.embedding()
        files = sum(file.stat().st_size for file in checkpoint.files())
        assert speed.weight_bytes == files - embedding.nbytes


def test_one_token_has_no_speed(compressed: Path) -> None:
    with pytest.raises(UsageError, match="1 new tokens have no speed; at least 2"):
        measure(compressed, threads=1, new_tokens=1)


def test_the_command_prints_a_table_or_json(
    compressed: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tilepress.bench.machine.describe_machine", lambda threads: machine)
    command = f"bench model -m {compressed} --prompt 8 --new 4 --repeats 1 --threads 2".split()
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["processor"]
    assert result["model"]["peak_memory_bytes"] > 1e6
    assert result["model"]["of_bandwidth"] > 0
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "8 tokens of prompt" in out
    assert "tokens/s" in out
