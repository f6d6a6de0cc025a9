"""What the interpreter cannot show: that the kernels compile for real devices, down to machine code, and fit them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilepress.codec import TILE_COLUMNS
from tilepress.kernels.triton.fast_form import few_tokens

# Bytes a thread. With two programs a multiprocessor the product for few tokens spills 240, addresses outside its loop.
MOST_SPILLED = 256
# Of the fast form's loop over tiles, branches for all widths of codes included: 5.0 on sm_80, 4.9 on sm_90.
MOST_INSTRUCTIONS = 5.5
WEIGHTS_A_THREAD = few_tokens.ROWS * TILE_COLUMNS // (32 * few_tokens.WARPS)


@pytest.mark.slow  # a minute of compiling
@pytest.mark.parametrize(("capability", "shared_bytes"), [(80, 163 << 10), (90, 227 << 10)])
def test_every_kernel_compiles(capability: int, shared_bytes: int, tmp_path: Path) -> None:
    script = Path(__file__).parent / "compiled.py"
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(script), str(capability)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    kernels = [json.loads(line) for line in result.stdout.splitlines()]
    assert len({usage["kernel"] for usage in kernels}) == 9
    for usage in kernels:
        assert usage["spilled"] <= MOST_SPILLED, usage
        assert usage["shared"] <= shared_bytes, usage
    for name in ("_multiply_tiles", "_multiply_panel", "_multiply_rows"):
        assert all(usage["tensor_cores"] for usage in kernels if usage["kernel"] == name)
    for usage in kernels:
        if usage["kernel"] == "_multiply_rows":
            assert usage["spilled"] == 0
            assert usage["loop"] <= MOST_INSTRUCTIONS * WEIGHTS_A_THREAD
