"""The compress job as torchrun starts it: two processes, one part each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tilepress.compress import compress_directory, verify


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
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
        "def write_part(source, out, *, rank, **others):\n"
        "    (out / f'written by {rank}').write_text('')\n"
        "    if rank == 1:\n"
        "        raise ValueError('rank 1 stumbles')\n"
        "torchrun.write_part = write_part\n"
        "try:\n"
        "    compress_under_torchrun(sys.argv[1], Path(sys.argv[2]))\n"
        "except (CheckpointError, ValueError) as error:\n"
        "    print(os.environ['RANK'], type(error).__name__, error, flush=True)\n"
        "    sys.exit(2)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    done = subprocess.run(
        [*command, str(script), str(w8a8s), str(tmp_path / "c")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "0 CheckpointError rank 1: rank 1 stumbles" in done.stdout
    assert list(tmp_path.iterdir()) == [script]


def test_without_torchrun_it_makes_the_parts_by_itself(tmp_path: Path, w8a8s: Path) -> None:
    command = [sys.executable, "-m", "tilepress.compress", "--model_path", str(w8a8s), "--save_directory"]
    subprocess.run([*command, str(tmp_path / "by-module")], check=True, capture_output=True, timeout=120)
    compress_directory(w8a8s, tmp_path / "by-function")
    weights = "part0-of-1/quant_model_weight_w8a8sc.safetensors"
    assert (tmp_path / "by-module" / weights).read_bytes() == (tmp_path / "by-function" / weights).read_bytes()
    again = subprocess.run([*command, str(tmp_path / "by-module")], capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "Traceback" not in again.stderr
