"""What the interpreter cannot show: that the kernels compile for real devices, down to machine code, and fit them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Bytes a thread. With two programs a multiprocessor the product for few tokens spills 240, addresses outside its loop.
MOST_SPILLED = 256


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.parametrize(("capability", "shared_bytes"), [(80, 163 << 10), (90, 227 << 10)])
def test_every_kernel_compiles(capability: int, shared_bytes: int, tmp_path: Path) -> None:
    script = Path(__file__).parent / "compiled.py"
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(script), str(capability)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    kernels = {line["kernel"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert len(kernels) == 6
    for name, usage in kernels.items():
        assert usage["spilled"] <= MOST_SPILLED, name
        assert usage["shared"] <= shared_bytes, name
    assert kernels["_multiply_tiles"]["tensor_cores"]
    assert kernels["_multiply_panel"]["tensor_cores"]
