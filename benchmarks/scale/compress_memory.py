"""Time and peak memory of `compress`, `reshard`, `inspect` and their like on synthetic models of Qwen3-32B's width.

    python -m benchmarks.scale.compress_memory FOLDER [--layers 4 8] [--tp 1] [--tokenizer DIR] [--json]

FOLDER gets, for each number of layers, a W8A8S directory of 2.4 GB and 0.49 GB a layer, and is where the commands
write. The integers are rounded Gaussians of deviation 2.6 with 0.5 % from one eight times as wide, the same in every
layer, but stored for each; embedding bfloat16, head int8. With a directory DIR that has a tokenizer of at most 151,936
tokens the compressed model is run too, for 8 tokens. Each command is a process of its own; its peak is the most
that it had resident (ru_maxrss), mapped pages of files included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.scale.measured_process import run_measured

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def make_w8a8s(out: Path, layers: int) -> None:
    """Imports torch, so that it has to run in a process of its own: a child's peak begins with its parent's memory."""
    import torch

    from tilepress.checkpoint import ModelShape, QuantizedLinear, W8A8SWriter, architecture_of
    from tilepress.models.architecture import float_tensors

    config = CONFIG | {"num_hidden_layers": layers}
    source = SimpleNamespace(path=out.parent / "no auxiliary files", config=config)
    source.path.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    made: dict[str, torch.Tensor] = {}

    def integers(name: str, n: int, k: int) -> torch.Tensor:
        if name not in made:
            values = torch.randn(n, k, generator=generator)
            values[torch.rand(n, k, generator=generator) < 0.005] *= 8
            made[name] = torch.round(values * 2.6).clamp(-127, 127).to(torch.int8)
        return made[name].clone()  # a file may not have two names for the same memory

    with W8A8SWriter(out, source, dtype="bfloat16", description={"activations": "overflow"}) as writer:
        for name, shape in float_tensors(architecture_of(config), ModelShape.from_config(config)).items():
            if not name.endswith("_proj.weight") and name != "lm_head.weight":
                writer.add_float(name, torch.ones(shape, dtype=torch.bfloat16))
                continue
            prefix = name.removesuffix(".weight")
            weight = integers(prefix.rpartition(".")[2], *shape)
            steps, bias = torch.full(shape[:1], 1e-4), torch.zeros(shape[0], dtype=torch.int32)
            writer.add_linear(prefix, QuantizedLinear(weight, 0.0625, 0, steps, bias))


def measure(folder: Path, layers: int, tp: int, tokenizer: Path | None) -> Iterator[dict[str, Any]]:
    source, made, other = (folder / f"{layers}-layers-{kind}" for kind in ("w8a8s", "w8a8sc", "resharded"))
    if not source.exists():
        run_measured([sys.executable, "-m", "benchmarks.scale.compress_memory", str(folder), "--make", str(layers)])
    commands = {
        "compress": f"compress -m {source} -o {made} --tp {tp}",
        "inspect W8A8S": f"inspect {source}",
        "inspect W8A8SC": f"inspect {made}",
        "inspect --verify": f"inspect --verify {source} {made}",
        "reshard": f"reshard {made} -o {other} --tp {2 * tp}",
    }
    if tokenizer is not None:
        commands["run W8A8SC"] = f"run -m {made} --max-new-tokens 8"
        for file in tokenizer.glob("*token*.json"):
            shutil.copy(file, source)  # compress takes it along
    for out in (made, other):
        shutil.rmtree(out, ignore_errors=True)
    for name, command in commands.items():
        started = time.monotonic()
        _, peak = run_measured([sys.executable, "-m", "tilepress", *command.split()])
        seconds = time.monotonic() - started
        yield {
            "layers": layers,
            "bytes": size(source),
            "compressed_bytes": size(made),
            "command": name,
            "seconds": seconds,
            "peak_bytes": peak,
        }


def size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        make_w8a8s(options.folder / f"{options.make}-layers-w8a8s", options.make)
        return
    rows = [row for layers in options.layers for row in measure(options.folder, layers, options.tp, options.tokenizer)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("layers  W8A8S GB  W8A8SC GB  command           seconds  peak GB")
    for row in rows:
        print(
            f"{row['layers']:6}  {row['bytes'] / 1e9:8.2f}  {row['compressed_bytes'] / 1e9:9.2f}  {row['command']:16}  "
            f"{row['seconds']:7.1f}  {row['peak_bytes'] / 1e9:7.2f}"
        )


if __name__ == "__main__":
    main()
