"""What vLLM itself checks of a model before it loads it, for each published config. `make test-vllm` runs these."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from quantized_models import make_w8a8s
from zoo_models import make_small, zoo

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here; `make test-vllm` runs these tests", allow_module_level=True)

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
from vllm.engine.arg_utils import EngineArgs

from tilepress.engines.vllm import register

ZOO = zoo()
REFUSED = ("Irfanuruchi/Llama-3.2-1B-Computer-Engineering-LLM", "Qwen/Qwen3-Embedding-8B")  # by `quant`, see test_zoo


@pytest.mark.parametrize("name", [name for name in ZOO if name not in REFUSED])
def test_vllm_accepts_the_config(name: str, tmp_path: Path) -> None:
    register()
    quantized = make_w8a8s(make_small(ZOO[name], tmp_path / "float", depth=1), tmp_path / "w8a8s")
    arguments = EngineArgs(model=str(quantized), dtype="float32", max_model_len=64, enforce_eager=True)
    config = arguments.create_engine_config()
    assert config.model_config.quantization == "tilepress"
    assert config.model_config.architecture == ZOO[name]["config"]["architectures"][0].replace("LLaMA", "Llama")
