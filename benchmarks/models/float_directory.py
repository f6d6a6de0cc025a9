"""Writing a float model directory shard by shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


@contextmanager
def float_directory(
    out: Path, config: Mapping[str, Any], tokenizer: Path, shards: int
) -> Iterator[Callable[[dict[str, Tensor]], None]]:
    """Under the block, `out` is made of `config` and the tokenizer's files; call what it gives with each shard in turn.

    `out` appears when the block ends. tokenizer: a directory with a tokenizer. shards: how many there will be.
    """
    if out.exists():
        raise SystemExit(f"{out} exists; remove it or choose another directory")
    staging = out.with_name(f"{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    (staging / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, staging)
    placed: dict[str, str] = {}
    files = (f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1))

    def save(tensors: dict[str, Tensor]) -> None:
        file = next(files)
        save_file(tensors, staging / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(tensors, file))

    yield save
    (staging / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    staging.rename(out)
