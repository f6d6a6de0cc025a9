"""The memory that `tilepress quant` takes for models of Qwen3's true widths, as the system counts it.

    python benchmarks/quant_memory.py FOLDER --tokenizer DIR [--sizes 8B 14B 32B] [--layers 2]

FOLDER gets a checkpoint of synthetic_qwen3.py for each size and what it becomes, one after the other, up to 10 GB each,
and is empty again in the end. Few layers and little calibration text: neither adds to the most that is resident.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from measured_process import run_measured

HERE = Path(__file__).parent
SAMPLES, LENGTH = 4, 512
PREDICTION = """
import sys
from pathlib import Path
from tilepress.checkpoint import FloatCheckpoint
from tilepress.quantize import Recipe
from tilepress.quantize.calibration_size import calibration_size
from tilepress.quantize.machine import machine_of
from tilepress.quantize.memory import peak_memory
import torch
shape = FloatCheckpoint(Path(sys.argv[1])).shape
recipe = Recipe(samples=int(sys.argv[2]), sequence_length=int(sys.argv[3]), head=True, embeddings=True)
print(peak_memory(shape, recipe, calibration_size(recipe, shape, 40960, machine_of(torch.device("cpu")))))
"""


def measure(size: str, folder: Path, tokenizer: Path, layers: int) -> tuple[int, int]:
    """Bytes resident at most: measured, and foretold."""
    source, out = folder / f"qwen3-{size}-{layers}", folder / f"qwen3-{size}-{layers}-w8a8s"
    if not source.exists():
        options = [size, source, "--tokenizer", tokenizer, "--layers", layers]
        run_measured([str(word) for word in (sys.executable, HERE / "synthetic_qwen3.py", *options)])
    calibration = ["--samples", SAMPLES, "--sequence-length", LENGTH, "--distill-steps", 0]
    options = ["-m", source, "-o", out, "--head", "--embeddings", "--dtype", "bfloat16", *calibration]
    _, taken = run_measured([str(word) for word in (sys.executable, "-m", "tilepress", "quant", *options)])
    foretold, _ = run_measured([sys.executable, "-c", PREDICTION, str(source), str(SAMPLES), str(LENGTH)])
    shutil.rmtree(out)
    return taken, int(foretold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sizes", nargs="+", default=["8B", "14B", "32B"])
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for size in options.sizes:
        taken, foretold = measure(size, options.folder, options.tokenizer, options.layers)
        print(f"Qwen3-{size}: {taken / 1e9:.2f} GB resident at most, {foretold / 1e9:.2f} GB foretold", flush=True)
        shutil.rmtree(options.folder / f"qwen3-{size}-{options.layers}")


if __name__ == "__main__":
    main()
