"""Memory and time of every command on models of Qwen3's true widths, beside what `tilepress plan` says before.

    python benchmarks/scale.py FOLDER --tokenizer DIR [--sizes 8B 14B 32B] [--layers 1 2]
        [--samples 4] [--sequence-length 512] [--json]

FOLDER gets a checkpoint of synthetic_qwen3.py for each size and number of layers and what becomes of it, up to 10 GB at
a time, and is empty again in the end. Head and embedding are quantized, nothing is distilled. Each command is a process
of its own; its peak is the most that it had resident (ru_maxrss), mapped pages of files included. Depth hardly adds to
that. Of two numbers of layers the difference in time is that of the layers, from which the whole model's time follows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measured_process import run_measured

HERE = Path(__file__).parent
DEPTHS = {"0.6B": 28, "1.7B": 28, "4B": 36, "8B": 36, "14B": 40, "32B": 64}


def measure(size: str, layers: int, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    source, quantized, compressed = (folder / f"{size}-{layers}{end}" for end in ("", "-w8a8s", "-w8a8sc"))
    if not source.exists():
        words = [str(HERE / "synthetic_qwen3.py"), size, str(source), "--layers", str(layers)]
        run_measured([sys.executable, *words, "--tokenizer", str(options.tokenizer)])
    recipe = f"--head --embeddings --dtype bfloat16 --distill-steps 0 --samples {options.samples}"
    recipe += f" --sequence-length {options.sequence_length}"
    plan = f"plan {source} -o {quantized} {recipe} --json"
    planned: dict[str, Any] = {}
    commands = {
        "plan": plan,
        "quant": f"quant -m {source} -o {quantized} {recipe}",
        "compress": f"compress -m {quantized} -o {compressed}",
        "inspect": f"inspect {compressed}",
        "run": f"run -m {compressed} --max-new-tokens 8",
    }
    for name, command in commands.items():
        started = time.monotonic()
        output, peak = run_measured([sys.executable, "-m", "tilepress", *command.split()])
        seconds = time.monotonic() - started
        if name == "plan":
            planned = {step["work"]: step for step in json.loads(output)["steps"]}
        step = planned.get(name, {"memory": {"needed": None}, "seconds": None})
        yield {
            "size": size,
            "layers": layers,
            "command": name,
            "seconds": seconds,
            "planned_seconds": step["seconds"],
            "peak_bytes": peak,
            "planned_bytes": step["memory"]["needed"],
        }
    for made in (source, quantized, compressed):
        shutil.rmtree(made)


def whole_model(rows: list[dict[str, Any]], size: str) -> dict[str, float] | None:
    """Seconds a layer and of the whole model in `quant`, from the fewest and the most layers; None from one number."""
    times = {row["layers"]: row["seconds"] for row in rows if row["size"] == size and row["command"] == "quant"}
    few, many = min(times), max(times)
    if few == many:
        return None
    layer = (times[many] - times[few]) / (many - few)
    return {"layer_seconds": layer, "model_seconds": times[few] + (DEPTHS[size] - few) * layer}


def line(row: dict[str, Any]) -> str:
    def number(value: float | None, unit: float, digits: int) -> str:
        return "" if value is None else f"{value / unit:.{digits}f}"

    return (
        f"{row['size']:5} {row['layers']:6}  {row['command']:8}  {row['seconds']:8.1f}  "
        f"{number(row['planned_seconds'], 1, 1):>8}  {row['peak_bytes'] / 1e9:7.2f}  "
        f"{number(row['planned_bytes'], 1e9, 2):>10}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sizes", nargs="+", default=["8B", "14B", "32B"], choices=DEPTHS)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    if not options.json:
        print("model layers  command    seconds   planned  peak GB  planned GB")
    for size in options.sizes:
        for layers in options.layers:
            for row in measure(size, layers, options.folder, options):
                rows.append(row)
                if not options.json:
                    print(line(row), flush=True)
    times = {size: whole_model(rows, size) for size in options.sizes}
    if options.json:
        print(json.dumps({"rows": rows, "times": times}, indent=1))
        return
    for size, found in times.items():
        if found is not None:
            print(
                f"Qwen3-{size}: {found['layer_seconds']:.0f} s a layer, {found['model_seconds'] / 3600:.1f} hours for "
                f"{DEPTHS[size]} layers with head and embedding"
            )


if __name__ == "__main__":
    main()
