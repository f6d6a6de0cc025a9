"""The whole road on a real model: fetch, quantize, compress, verify, answer, and a table of what it cost.

Everything is made under .demo/ and kept: a second run only answers. Delete a directory there to make it again.
Usage: python demo/demo.py [FOLDER]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from smollm2 import fetch_smollm2

BITS = 4.0
# Half the calibration and no distillation: some minutes less, for a point of perplexity ratio.
QUICK = ("--samples", "32", "--distill-steps", "0")
TP = 3  # the model has 9 heads and 3 key-value heads, which two ranks cannot share
PROMPT = "What's deep learning?"


class Demo:
    """Directories and what their making took, remembered between runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console()
        self._notes = folder / "seconds.json"
        self.seconds: dict[str, float] = json.loads(self._notes.read_text()) if self._notes.exists() else {}

    def make(self, name: str, directory: Path, command: list[str]) -> Path:
        """`directory`, made by a tilepress command unless it is there."""
        if not directory.exists():
            started = time.monotonic()
            tilepress(*command)
            self.note(name, started)
        return directory

    def note(self, name: str, started: float) -> None:
        self.seconds[name] = time.monotonic() - started
        self._notes.write_text(json.dumps(self.seconds))


def tilepress(*arguments: str) -> None:
    """Run a command in view of the user."""
    print(f"\n$ tilepress {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "tilepress", *arguments], check=True)


def result_of(*arguments: str) -> dict[str, Any]:
    """What a command prints with --json."""
    command = [sys.executable, "-m", "tilepress", *arguments, "--json"]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def main() -> None:
    demo = Demo(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo"))
    started = time.monotonic()
    fetched = (demo.folder / "SmolLM2-135M-Instruct").exists()
    source = fetch_smollm2(demo.folder)
    if not fetched:
        demo.note("float", started)

    quantized = demo.folder / f"SmolLM2-135M-Instruct-w8a8s-{BITS}"
    compressed = demo.folder / f"SmolLM2-135M-Instruct-w8a8sc-{BITS}-tp{TP}"
    demo.make(
        "w8a8s",
        quantized,
        ["quant", "-m", str(source), "-o", str(quantized), "--bits", str(BITS), *QUICK],
    )
    demo.make("w8a8sc", compressed, ["compress", "-m", str(quantized), "-o", str(compressed), "--tp", str(TP)])
    tilepress("inspect", "--verify", str(quantized), str(compressed))
    tilepress("run", "-m", str(compressed), "--prompt", PROMPT, "--max-new-tokens", "120")
    demo.console.print(results(demo, {"float": source, "w8a8s": quantized, "w8a8sc": compressed}))


def results(demo: Demo, directories: dict[str, Path]) -> Table:
    """Bytes, bits a weight of the decoder's linears, perplexity, speed and the time each took to make."""
    table = Table(title="SmolLM2-135M-Instruct on this machine")
    for column in ("", "weight files", "linears, bits a weight", "perplexity", "tokens/s", "made in"):
        table.add_column(column, justify="left" if not column else "right")
    for kind, directory in directories.items():
        summary = result_of("inspect", str(directory))
        speed = result_of("run", "-m", str(directory), "--prompt", PROMPT, "--max-new-tokens", "64")
        if kind != "w8a8sc":  # gives the same bits as W8A8S, which costs half a minute to evaluate
            perplexity = result_of("eval", "-m", str(directory), "--tokens", "8192")["perplexity"]
        table.add_row(
            {"float": "float16"}.get(kind, kind.upper()),
            f"{summary['weight_bytes'] / 1e6:.1f} MB",
            f"{summary['bits_per_weight'] or 16:.2f}",
            f"{perplexity:.2f}",
            f"{speed['tokens_per_second']:.1f}",
            f"{demo.seconds[kind]:.0f} s" if kind in demo.seconds else "before",
        )
    return table


if __name__ == "__main__":
    main()
