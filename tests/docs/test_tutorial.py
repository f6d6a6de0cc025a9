"""The tutorial works: its commands, one after the other, in an empty directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import ROOT, blocks, lines_of, text_of, words_of

TUTORIAL = ROOT / "docs" / "tutorial" / "smollm2.md"
STEPS = ["python", "plan", "quant", "inspect", "compress", "inspect", "inspect", "run", "eval", "reshard", "serve"]


def command_lines() -> list[str]:
    return [line for block in blocks(text_of(TUTORIAL), "sh") for line in lines_of(block.text) if words_of(line)]


def test_the_tutorial_goes_from_the_model_to_the_server() -> None:
    words = [words_of(line) for line in command_lines()]
    assert [line[1] if line[0] == "tilepress" else line[0] for line in words] == STEPS


def figure(name: str, printed: str) -> float:
    """The number behind a name in what a command prints."""
    found = re.search(rf"^{name} +([\d.]+)", printed, re.MULTILINE)
    assert found, f"no {name} in:\n{printed}"
    return float(found[1])


@pytest.mark.slow  # three minutes on two cores, most of them for `tilepress quant`
def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    # The commands of the environment that runs the tests, as after `source .venv/bin/activate`.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    said: list[str] = []
    for line in command_lines():
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    told = dict(zip(STEPS, said, strict=True))  # of the three `inspect` the last one
    assert figure("bits a weight", told["inspect"]) == pytest.approx(4.0, abs=0.03)
    assert told["run"].strip()
    assert 0 < figure("KL divergence", told["eval"]) < 0.25
    assert 1 < figure("ratio", told["eval"]) < 1.3
    assert "--model smollm2-w8a8sc" in told["serve"]
    weights = tmp_path / "smollm2-w8a8sc" / "part0-of-1" / "quant_model_weight_w8a8sc.safetensors"
    assert 69e6 < weights.stat().st_size < 73e6, "the page says about 71 MB"
    parts = sorted(part.name for part in (tmp_path / "smollm2-w8a8sc-tp3").glob("part*"))
    assert parts == ["part0-of-3", "part1-of-3", "part2-of-3"]
    assert json.loads((tmp_path / "smollm2-w8a8s" / "config.json").read_text())["quantize"] == "tilepress-w8a8s-dynamic"
