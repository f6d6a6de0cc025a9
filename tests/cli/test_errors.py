"""Bad input on the command line: one line that says what, where and what to do; exit status 2; nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tilepress.cli import main
from tilepress.errors import TilepressError


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("quant -m {float} -o {out} --device tpu", "--device tpu: unknown device; use cpu"),
        ("quant -m {float} -o {out} --device npu", "install torch_npu"),
        ("quant -m {float} -o {out} --quant-type w4a4", "w8a8s is the only one"),
        ("quant -m {float} -o {out} --device npu:0,1", "torchrun --nproc_per_node 2 -m tilepress.quantize"),
        ("quant -m {float} -o {out} --for tensorrt", "use one of tilepress, vendor, vendor-a2"),
        ("quant -m {float} -o {out} --for vendor --head", "head is True with --for vendor: MindIE-LLM"),
        ("quant -m {float} -o {out} --for vendor --dtype bfloat16", "take 'float16'"),
        ("plan {float} --for vendor --activations dynamic", "activations is 'dynamic' with --for vendor"),
        ("convert {float} -o {out} --for vendor", "is a float directory; quantize it first"),
        ("compress -m {float} -o {out} --save_split_w8a8s_dir {out}", "tilepress writes no W8A8S parts"),
        ("quant -m {float} -o {out} --bits 9", "bits"),
        ("quant -m {float} -o {out} --bits 4 --size 90MB", "choose one target"),
        ("quant -m {float} -o {out} --size 90apples", "--size 90apples: no size"),
        ("quant -m {float} -o {out} --loss -1", "loss"),
        ("quant -m {float} -o {out} --activations exact", "choose one of overflow, static, per-token, dynamic"),
        ("quant -m {float} -o {out} --distill-steps -1", "distill_steps is -1"),
        ("quant -m {float} -o {out} --calib {out}/none.txt", "none.txt"),
        ("quant -m {float} -o {float}", "exists"),
        ("quant -m {out}/none -o {out}", "none"),
        ("quant -m {float} -o {out}/" + 210 * "n", "of at most 200 bytes"),
        ("compress -m {float} -o {out}", "tilepress quant"),
        ("reshard {float} --tp 2 -o {out}", "is not compressed; give a W8A8SC directory"),
        ("reshard {out} --tp 2 -o {out}", "no such directory"),
        ("reshard {out} --tp 2 -o {float}", "exists already"),
        ("run -m {float} --temperature -1", "--temperature -1"),
        ("run -m {float} --device npu:0", "install torch_npu"),
        ("run -m {float} --dtype int8", "--dtype int8"),
        ("run -m {float} --max-model-len 0", "--max-model-len 0: has to be at least 1"),
        ("run -m {float} --prompts {out}/none.txt", "none.txt"),
        ("chat -m {float} --tools {out}/none.json", "none.json"),
        ("eval -m {float} --text {out}/none.txt", "none.txt"),
        ("eval -m {float} --window 100000", "context"),
        ("eval -m {float} --window 0", "a window of 0 tokens"),
        ("quant -m {float} -o {out} --size 1kB", "what stays float, scales and index take"),
        ("plan {float} --size 1kB", "what stays float, scales and index take"),
        ("serve {float} --dry-run --tp 3", "3 tensor-parallel parts do not fit 8 heads, 4 kv heads"),
        ("serve {float} --dry-run --parallel-decoding yes", "choose one of off, ngram, memory"),
        ("serve {float} --dry-run --max-model-len 999999999", "give at most"),
        ("serve {float} --dry-run --kv-cache much", "--kv-cache much: no size"),
        ("serve {float} --dry-run --tools", "--tool-call-parser NAME"),
        ("serve {float} --json", "--dry-run"),
        ("serve {out} --dry-run", "no such directory"),
        ("inspect {out}", "tilepress-no-such"),
        ("inspect {float} {float}", "--verify compares two"),
        ("inspect --verify {float}", "--verify compares two directories"),
        ("inspect --verify {float} {float}", "W8A8S"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    command: str, message: str, tiny_qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tilepress-no-such"
    status = main(command.format(float=tiny_qwen3, out=out).split())
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_the_error_came_from(tmp_path: Path) -> None:
    with pytest.raises(TilepressError):
        main(["inspect", str(tmp_path / "none"), "--debug"])


@pytest.mark.parametrize(
    "words",
    [
        ["quant"],
        ["reshard", "c", "--tp", "0", "-o", "d"],
        ["nonsense"],
        ["run", "--nonsense"],
        ["quant", "--bits", "many"],
    ],
)
def test_an_unusable_command_line_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "plan",
        "quant",
        "compress",
        "reshard",
        "run",
        "chat",
        "serve",
        "eval",
        "inspect",
        "bench kernel",
        "bench codec",
        "bench model",
    ],
)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"tilepress {command}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_terminated_command_leaves_no_more_than_the_work_to_go_on_from(tiny_qwen3: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m tilepress quant -m {tiny_qwen3} -o {tmp_path / 'out'} --samples 4096"
    with subprocess.Popen(command.split(), stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.iterdir()):  # the work directory
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        process.wait(timeout=60)
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] in ([], [".out.quant"])


def test_an_unknown_instruction_set_is_refused() -> None:
    command = [sys.executable, "-m", "tilepress", "--help"]
    environment = {**os.environ, "TILEPRESS_ISA": "mmx"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "TILEPRESS_ISA is 'mmx': unset it, or set it to one of " in result.stderr
