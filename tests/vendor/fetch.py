"""Fetches the public sources of the vendor's engines, which `test_vendors_loaders.py` executes: `python fetch.py`.

They go to .vendors/ in the checkout, some 500 MB, and into no commit.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".vendors"
SOURCES = {
    "MindIE-LLM": "https://github.com/Ascend/MindIE-LLM",
    "vllm-ascend": "https://github.com/vllm-project/vllm-ascend",
}

if __name__ == "__main__":
    for name, address in SOURCES.items():
        if not (FOLDER / name).exists():
            subprocess.run(["git", "clone", "--depth", "1", address, str(FOLDER / name)], check=True)
