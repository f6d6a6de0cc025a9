"""Divergences of llama.cpp's files, with programs in place of its own that only leave what they would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.peers import llama_cpp
from benchmarks.quality import fingerprint

TEXT = "Some text with a \\n that is no end of a line."
# Of a text of five chunks, for a vocabulary of three.
PERPLEXITY = """
import pathlib, struct, sys
arguments = sys.argv[1:]
after = lambda name: arguments[arguments.index(name) + 1]
base = pathlib.Path(after("--kl-divergence-base"))
if "--kl-divergence" in arguments:
    print("Mean    KLD:   0.012500 +/-   0.000100")
else:
    assert "--no-escape" in arguments and after("-c") == "512", arguments
    chunks = min(5, int(after("--chunks")))
    with base.open("wb") as file:
        file.write(b"_logits_" + struct.pack("<3i", 512, 3, chunks))
        file.write(bytes(chunks * (4 * 512 + 2 * 255 * (4 + 4)) - MISSING))
"""
QUANTIZE = "import shutil, sys; shutil.copy(*sys.argv[-3:-1])"
BATCHED_BENCH = """
import json, sys
print("a line of its log")
print(json.dumps({"speed_pp": 500.0, "speed_tg": 80.0 if sys.argv[sys.argv.index("-npl") + 1] == "8" else 0.0}))
"""
IMATRIX = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text(' '.join(sys.argv[1:]))"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path: Path, model: Path) -> Path:
    """With programs, and the model as GGUF."""
    folder = tmp_path / "cache"
    built = folder / "llama.cpp-build" / "bin"
    built.mkdir(parents=True)
    (folder / f"model-{fingerprint.of_directory(model)}-F16.gguf").write_bytes(b"GGUF")
    program(built / "llama-bench", "")
    program(built / "llama-batched-bench", BATCHED_BENCH)
    program(built / "llama-imatrix", IMATRIX)
    program(built / "llama-quantize", QUANTIZE)
    program(built / "llama-perplexity", PERPLEXITY.replace("MISSING", "0"))
    return folder


def program(file: Path, source: str) -> None:
    file.write_text(f"#!{sys.executable}\n{source}")
    file.chmod(0o755)


def test_as_many_chunks_are_read_as_the_tokens_fill(cache: Path, model: Path) -> None:
    assert llama_cpp.divergence(cache, model, "Q4_0", TEXT, 700) == (0.0125, 2 * 255)
    assert llama_cpp.divergence(cache, model, "Q8_0", TEXT, 700) == (0.0125, 2 * 255)
    assert llama_cpp.divergence(cache, model, "Q4_0", TEXT, 99999) == (0.0125, 5 * 255), "all that the text has"


def test_logits_are_those_of_a_text_and_a_number_of_chunks(cache: Path, model: Path) -> None:
    llama_cpp.divergence(cache, model, "Q4_0", TEXT, 700)
    (kept,) = cache.glob("*.logits")
    assert kept == llama_cpp.logits_file(cache, model, TEXT, 701)
    assert kept != llama_cpp.logits_file(cache, model, TEXT, 1100)
    assert kept != llama_cpp.logits_file(cache, model, TEXT + ".", 700)


def test_logits_that_the_disk_had_no_room_for_are_not_kept(cache: Path, model: Path) -> None:
    program(cache / "llama.cpp-build" / "bin" / "llama-perplexity", PERPLEXITY.replace("MISSING", "100"))
    with pytest.raises(SystemExit, match="is the disk full"):
        llama_cpp.divergence(cache, model, "Q4_0", TEXT, 700)
    assert not list(cache.glob("*.logits"))


def test_an_importance_matrix_is_made_once_of_a_calibration_text(cache: Path, model: Path) -> None:
    plain = llama_cpp.quantized(cache, model, "IQ3_M")
    weighted = llama_cpp.quantized(cache, model, "IQ3_M", "Read this.")

    assert plain != weighted
    matrix = llama_cpp.importance(cache, model, "Read this.")
    assert f"-f {matrix.with_suffix('.txt')}" in matrix.read_text()
    assert matrix.with_suffix(".txt").read_text() == "Read this."
    assert llama_cpp.divergence(cache, model, "IQ3_M", TEXT, 700, "Read this.") == (0.0125, 2 * 255)


def test_several_streams_are_timed_together(cache: Path, model: Path) -> None:
    speed = llama_cpp.speed(cache, model, "Q4_0", prompt=100, new=4, threads=2, repeats=1, streams=8)
    assert speed["prefill_tokens_per_second"] == 500
    assert speed["first_token_seconds"] == 0.2
    assert speed["decode_tokens_per_second"] == 80
