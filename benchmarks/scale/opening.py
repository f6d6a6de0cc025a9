"""Seconds and memory that opening a 3 GB W8A8SC checkpoint takes, page cache warm, before its first use.

    python -m benchmarks.scale.opening [--layers 38] [--json]

The checkpoint is synthetic and written to a temporary directory: layers of Qwen3-8B's width (79 MB each) with the same
random integers, but each stored by itself, and a small vocabulary. A new process imports everything, then opens the
directory and builds the transformers model of it; the tokenizer is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tilepress.checkpoint import (
    ModelShape,
    QuantizedLinear,
    W8A8SCCheckpoint,
    W8A8SWriter,
    architecture_of,
    open_checkpoint,
)
from tilepress.compress import compress_directory
from tilepress.engines.transformers.model import build_quantized_model
from tilepress.models.architecture import float_tensors

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 1024,
    "tie_word_embeddings": True,
    "num_hidden_layers": 1,
}
WEIGHTS = "part0-of-1/quant_model_weight_w8a8sc.safetensors"
DESCRIPTION = "part0-of-1/quant_model_description.json"


def one_layer(folder: Path) -> Path:
    """A W8A8SC directory of one layer: rounded Gaussians of deviation 2, one weight in 200 from a wider one."""
    rng = np.random.default_rng(0)
    source = SimpleNamespace(path=folder / "empty", config=CONFIG)
    source.path.mkdir()
    with W8A8SWriter(folder / "w8a8s", source, dtype="float16") as writer:
        for name, shape in float_tensors(architecture_of(CONFIG), ModelShape.from_config(CONFIG)).items():
            if not name.endswith("_proj.weight"):
                writer.add_float(name, torch.ones(shape))
                continue
            values = rng.standard_normal(shape, np.float32) * np.where(rng.random(shape, np.float32) < 0.005, 16, 2)
            integers = torch.from_numpy(np.clip(np.rint(values), -127, 127).astype(np.int8))
            rows = shape[0]
            linear = QuantizedLinear(
                integers, 0.0625, 0, torch.full((rows,), 1e-4), torch.zeros(rows, dtype=torch.int32)
            )
            writer.add_linear(name.removesuffix(".weight"), linear)
    compress_directory(folder / "w8a8s", folder / "w8a8sc")
    return folder / "w8a8sc"


def repeat_layer(directory: Path, layers: int) -> None:
    """Write the only layer of `directory` again and again, each with bytes of its own in the file."""
    tensors: dict[str, torch.Tensor] = {}
    types = json.loads((directory / DESCRIPTION).read_text())
    for name, tensor in load_file(directory / WEIGHTS).items():
        kind = types.pop(name)
        for layer in range(layers if ".layers." in name else 1):
            copy = name.replace(".layers.0.", f".layers.{layer}.")
            tensors[copy], types[copy] = tensor.clone(), kind
    (directory / WEIGHTS).unlink()
    save_file(tensors, directory / WEIGHTS)
    (directory / DESCRIPTION).write_text(json.dumps(types))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))


def memory() -> dict[str, int]:
    """Resident bytes of this process: all, and those that are its own and not the page cache's."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {"resident": 1024 * kilobytes["Rss"], "anonymous": 1024 * kilobytes["Anonymous"]}


def measure(directory: Path) -> list[dict[str, Any]]:
    """Opening the checkpoint, then building the model: seconds of each, and growth of memory since before the first."""
    size = (directory / WEIGHTS).stat().st_size
    before, started = memory(), time.perf_counter()
    checkpoint = open_checkpoint(directory)
    assert isinstance(checkpoint, W8A8SCCheckpoint)
    opened, open_memory = time.perf_counter(), memory()
    model = build_quantized_model(checkpoint, torch.float32)
    built, built_memory = time.perf_counter(), memory()
    steps = [("open_checkpoint", opened - started, open_memory), ("model built", built - started, built_memory)]
    del model
    return [
        {"after": name, "bytes": size, "seconds": seconds}
        | {f"{kind}_growth": now[kind] - before[kind] for kind in before}
        | {"share_of_file": (now["resident"] - before["resident"]) / size}
        for name, seconds, now in steps
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=38)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = one_layer(Path(folder))
        repeat_layer(directory, options.layers)
        with get_context("spawn").Pool(1) as new_process:
            rows = new_process.apply(measure, (directory,))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"weight file {rows[0]['bytes'] / 1e9:.2f} GB")
    print("                 seconds  resident MB  of these anonymous MB  share of the file")
    for row in rows:
        megabytes = f"{row['resident_growth'] / 1e6:11.1f}  {row['anonymous_growth'] / 1e6:21.1f}"
        print(f"{row['after']:16} {row['seconds']:7.3f}  {megabytes}  {row['share_of_file']:17.2%}")


if __name__ == "__main__":
    main()
