"""A float directory as static W8A8 in the format of compressed-tensors, which vLLM reads: to measure speed only.

    python -m benchmarks.peers.vllm_checkpoint DIR OUT

Weights are rounded to the nearest of a step a row, activations get one scale for all: a speed does not depend on it.
Embedding and head stay float, as in the checkpoints that are made for vLLM.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

INPUT_SCALE = 0.04
INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**INT8, "strategy": "channel"},
            "input_activations": {**INT8, "strategy": "tensor"},
        }
    },
}


def make(source: Path, out: Path) -> None:
    """`out`, with one file of weights, from a Llama, Qwen2 or Qwen3 that transformers reads."""
    staging = out.with_name(f"{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    (staging / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTIZATION}, indent=1))
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and file.name != "config.json" and "index" not in file.name:
            shutil.copy(file, staging)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (an open file is no dictionary)
                tensor = stored.get_tensor(name)
                tensors.update(_quantized(name, tensor) if name.endswith("_proj.weight") else {name: tensor})
    save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
    staging.rename(out)


def _quantized(name: str, weight: Tensor) -> dict[str, Tensor]:
    """What is stored for a weight [n, k]: int8 [n, k], float32 steps [n, 1] and float32 scale of the input [1]."""
    weight = weight.float()
    steps = weight.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
    return {
        name: torch.round(weight / steps).to(torch.int8),
        f"{name}_scale": steps,
        name.removesuffix("weight") + "input_scale": torch.tensor([INPUT_SCALE]),
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Path(sys.argv[2]))
