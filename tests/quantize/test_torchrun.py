"""The quantization as torchrun starts it: two processes of one host."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tilepress.checkpoint import FloatCheckpoint
from tilepress.quantize import Recipe, quantize_checkpoint

WEIGHTS = "quant_model_weight_w8a8s.safetensors"
RECIPE = Recipe(samples=2, sequence_length=64, head=True, distill_steps=2)

# Rank 1 is killed when it comes to the last layer for the last time.
KILLED = """
import os, signal, sys
from tilepress.cli import main
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder

layer, visits = LayerwiseDecoder.layer, []

def visited(self, index):
    visits.append(index)
    if os.environ["RANK"] == "1" and len(visits) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return layer(self, index)

LayerwiseDecoder.layer = visited
sys.exit(main(["quant", *sys.argv[1:]]))
"""


def torchrun(program: list[str], source: Path, out: Path, *text: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    paths = ["--model_path", str(source), "--save_path", str(out), *text]
    options = ["--samples", "2", "--sequence_length", "64", "--head", "--distill_steps", "2"]
    return subprocess.run(
        [*launcher, *program, *paths, *options],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_which_then_goes_on_to_what_one_process_makes(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(KILLED, encoding="utf-8")

    died = torchrun([str(script)], tiny_qwen3, out, "--calib", str(calibration))

    assert died.returncode != 0
    assert "error: rank 1 on" in died.stderr, died.stderr
    assert "no longer answers" in died.stderr
    assert not out.exists()
    for work in (tmp_path / ".out.quant", tmp_path / ".out.quant-rank1"):
        assert (work / "layer-00000.json").exists()
        assert not (work / "layer-00001.json").exists()

    done = torchrun(["-m", "tilepress.quantize"], tiny_qwen3, out, "--calib", str(calibration))

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W8A8S directory") == 1
    assert not list(tmp_path.glob(".out*"))
    alone = tmp_path / "alone"
    quantize_checkpoint(FloatCheckpoint(tiny_qwen3), alone, RECIPE, calibration=calibration)
    assert (out / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_what_the_first_rank_writes_calibrates_all(tiny_qwen3: Path, tmp_path: Path) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"

    done = torchrun(["-m", "tilepress.quantize"], tiny_qwen3, out, "--self_calibration")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 x 64 tokens that the model wrote") == 1
    assert not list(tmp_path.glob(".out*"))
    quantize_checkpoint(FloatCheckpoint(tiny_qwen3), alone, replace(RECIPE, self_calibration=True))
    assert (out / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
