"""Memory and time of every command on models of Qwen3's true widths, beside what `tilepress plan` says before.

    python -m benchmarks.scale.large_models FOLDER --tokenizer DIR [--sizes 8B 14B 32B] [--layers 2]
        [--samples 4] [--sequence-length 512] [--json]

FOLDER gets a checkpoint of synthetic_qwen3.py for each size and number of layers and what becomes of it, up to 10 GB at
a time, and is empty again in the end. Head and embedding are quantized, nothing is distilled. Each command is a process
of its own; its peak is the most that it had resident (ru_maxrss), mapped pages of files included. Depth hardly adds to
that. How long each stage of a quantization takes is read from when its record is written; from that of the layers
follows how long the whole model would take.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.scale.measured_process import run_measured

OF_LAYERS = ("forward", "sensitivity", "layer")
DEPTHS = {"0.6B": 28, "1.7B": 28, "4B": 36, "8B": 36, "14B": 40, "32B": 64}


def measure(size: str, layers: int, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    source, quantized, compressed = (folder / f"{size}-{layers}{end}" for end in ("", "-w8a8s", "-w8a8sc"))
    if not source.exists():
        words = ["-m", "benchmarks.models.synthetic_qwen3", size, str(source), "--layers", str(layers)]
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
        with StageTimes(folder / f".{quantized.name}.quant") as stages:
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
            **(extrapolated(source, size, seconds, stages.seconds()) if name == "quant" else {}),
        }
    for made in (source, quantized, compressed):
        shutil.rmtree(made)


class StageTimes:
    """When each stage of a quantization was done, by the records in its work directory, while the block runs."""

    def __init__(self, work: Path) -> None:
        self._work, self._ended, self._over = work, dict[str, float](), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> StageTimes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def seconds(self) -> dict[str, float]:
        """Stage -> how long it took."""
        ended = sorted((when, stage) for stage, when in self._ended.items())
        return {stage: when - before for (before, _), (when, stage) in itertools.pairwise(ended)}

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for record in self._work.glob("*.json"):
                with contextlib.suppress(FileNotFoundError):
                    self._ended.setdefault(record.stem, record.stat().st_mtime)


def extrapolated(source: Path, size: str, seconds: float, stages: dict[str, float]) -> dict[str, Any]:
    """Seconds by kind of stage, those of a layer, and those of the model with all of its layers."""
    kinds: dict[str, float] = {}
    for stage, took in stages.items():
        kind = stage.partition("-")[0]
        kinds[kind] = kinds.get(kind, 0.0) + took
    config = json.loads((source / "config.json").read_text())
    layers = config["num_hidden_layers"]
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    rows = heads * config["head_dim"] + 2 * config["hidden_size"] + 2 * config["intermediate_size"]
    of_tables = 2 * config["vocab_size"]
    # The search for the bits takes its time by the row.
    search = kinds["allocation"] * rows / (layers * rows + of_tables)
    layer = sum(kinds[kind] for kind in OF_LAYERS) / layers + search
    return {
        "stage_seconds": kinds,
        "layer_seconds": layer,
        "model_seconds": seconds + (DEPTHS[size] - layers) * layer,
    }


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
    parser.add_argument("--layers", type=int, nargs="+", default=[2])
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
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        if row["command"] == "quant":
            hours, depth = row["model_seconds"] / 3600, DEPTHS[row["size"]]
            print(
                f"Qwen3-{row['size']}: {row['layer_seconds']:.0f} s a layer, {hours:.1f} hours for all {depth} layers"
            )


if __name__ == "__main__":
    main()
