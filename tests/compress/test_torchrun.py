"""The compress job as torchrun starts it: two processes, one part each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilepress.compress import kept_progress, verify


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "tilepress.compress", *arguments], capture_output=True, text=True, timeout=120, env=environment
    )


def test_each_process_makes_its_part(tmp_path: Path, w8a8s: Path, w8a8sc: Path) -> None:
    out = tmp_path / "c"
    done = torchrun("--model_path", str(w8a8s), "--save_directory", str(out))
    assert done.returncode == 0, done.stderr
    assert verify(w8a8s, out).same
    for part in ("part0-of-2", "part1-of-2"):
        weights = f"{part}/quant_model_weight_w8a8sc.safetensors"
        assert (out / weights).read_bytes() == (w8a8sc / weights).read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_a_process_that_fails_fails_the_job(tmp_path: Path, w8a8s: Path) -> None:
    # Rank 1 alone stumbles: its part is already there.
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tilepress.compress import compress_under_torchrun, torchrun\n"
        "from tilepress.errors import CheckpointError\n"
        "def write_part(source, work, job, **others):\n"
        "    work.make_part(f'part{source.rank}')\n"
        "    if source.rank == 1:\n"
        "        raise ValueError('rank 1 stumbles')\n"
        "torchrun.write_part = write_part\n"
        "try:\n"
        "    compress_under_torchrun(sys.argv[1], Path(sys.argv[2]))\n"
        "except (CheckpointError, ValueError) as error:\n"
        "    # One write: torchrun has Python write each argument of print by itself, and the ranks' would mix.\n"
        "    print(' '.join([os.environ['RANK'], type(error).__name__, str(error)]), flush=True)\n"
        "    sys.exit(2)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(w8a8s), str(tmp_path / "c")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "0 CheckpointError rank 1: rank 1 stumbles" in done.stdout
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(tmp_path: Path, w8a8s: Path, w8a8sc: Path) -> None:
    script, out = tmp_path / "job.py", tmp_path / "c"
    script.write_text(
        "import os, signal, sys\n"
        "from tilepress.checkpoint.safetensors import writer\n"
        "from tilepress.cli import main\n"
        "from tilepress.compress import job\n"
        "job.BATCH = 0\n"
        "genuine, writes = writer.write_whole, []\n"
        "def write_whole(file, data):\n"
        "    writes.append(0)\n"
        "    if os.environ['RANK'] == '1' and len(writes) == 40:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    genuine(file, data)\n"
        "writer.write_whole = write_whole\n"
        "sys.exit(main(['compress', *sys.argv[1:]]))\n"
    )
    arguments = ["--model_path", str(w8a8s), "--save_directory", str(out)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    killed = subprocess.run([*command, str(script), *arguments], capture_output=True, text=True, timeout=120)
    assert killed.returncode != 0
    assert not out.exists()
    assert kept_progress(out) is not None

    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    for part in ("part0-of-2", "part1-of-2"):
        weights = f"{part}/quant_model_weight_w8a8sc.safetensors"
        assert (out / weights).read_bytes() == (w8a8sc / weights).read_bytes()
    assert sorted(tmp_path.iterdir()) == [out, script]


def test_without_torchrun_it_makes_the_parts_by_itself(tmp_path: Path, w8a8s: Path, w8a8sc: Path) -> None:
    arguments = ["--model_path", str(w8a8s), "--save_directory", str(tmp_path / "c"), "--tp", "2"]
    subprocess.run([sys.executable, "-m", "tilepress.compress", *arguments], check=True, timeout=120)
    weights = "part1-of-2/quant_model_weight_w8a8sc.safetensors"
    assert (tmp_path / "c" / weights).read_bytes() == (w8a8sc / weights).read_bytes()
