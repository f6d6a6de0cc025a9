"""Published models of the four architectures go through the main job: plan, rehearsal, quant, compress, run, serve.

Weights and sizes are not theirs: see zoo_models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tilepress.cli import main
from zoo_models import make_headers, make_small, zoo

ZOO = zoo()
# What is not to be had, and the words with which it is refused.
REFUSED = {
    "Irfanuruchi/Llama-3.2-1B-Computer-Engineering-LLM": "weights are quantized already; start from the float model",
    "Qwen/Qwen3-Embedding-8B": 'lm_head.weight is missing; set "tie_word_embeddings": true in config.json',
}
QUICK = "--samples 2 --sequence-length 48 --distill-steps 0"
# One of each kind; the others are slow tests, for their vocabularies are as published.
FAST = {
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-Embedding-8B",
    "meta-llama/Llama-2-7b-chat-hf",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "mistralai/Mistral-7B-v0.1",
    "Irfanuruchi/Llama-3.2-1B-Computer-Engineering-LLM",
}


def go_through(entry: dict[str, Any], folder: Path, depth: int, capsys: pytest.CaptureFixture[str]) -> None:
    model, quantized, compressed = folder / "float", folder / "w8a8s", folder / "w8a8sc"
    make_small(entry, model, depth)
    calibration = folder / "text.txt"
    calibration.write_text("Tiny models learn nothing from a text, but they have to read it.\n\n" * 4)

    refused = REFUSED.get(entry["name"])
    assert main(["plan", str(model), "--json"]) == (2 if refused else 0)
    status = main(f"quant -m {model} -o {quantized} --calib {calibration} {QUICK}".split())
    said = capsys.readouterr().err
    if refused:
        assert status == 2
        assert refused in said
        return
    assert status == 0, said
    assert "rehearsal" not in said, "it would be a note that it failed"

    tp = 2 if entry["config"]["num_attention_heads"] % 2 == 0 else 3  # SmolLM has nine heads
    assert main(f"compress -m {quantized} -o {compressed} --tp {tp}".split()) == 0
    for directory in (model, compressed):
        capsys.readouterr()
        assert main(f"run -m {directory} --prompt Hello --max-new-tokens 2 --json".split()) == 0
        assert json.loads(capsys.readouterr().out)["new_tokens"] in (1, 2)
    assert main(f"serve {compressed} --tp {tp} --dry-run --json".split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ZOO])
def test_small(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go_through(ZOO[name], tmp_path, 2, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"])
def test_in_full_depth(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go_through(ZOO[name], tmp_path, ZOO[name]["config"]["num_hidden_layers"], capsys)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in REFUSED])
def test_plan_in_real_size(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["plan", str(make_headers(ZOO[name], tmp_path / "real")), "--json"])
    planned = json.loads(capsys.readouterr().out)
    assert [step["work"] for step in planned["steps"]] == ["quant", "compress", "run"]
    assert status == (2 if planned["problems"] else 0)
    assert all("needs" in problem for problem in planned["problems"])
