"""The plugin in a real vLLM on the CPU: that it loads our directories without a flag and answers as transformers does.

`make test-vllm` runs these, in an environment that has vLLM.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import tilepress
import tiny_models
from quantized_directories import edit_json, edit_tensors, write_dynamic
from quantized_models import make_w8a8s
from tilepress import BitstreamError, CheckpointError, UsageError
from tilepress.checkpoint.convert import convert_directory
from tilepress.checkpoint.export import export_directory
from tilepress.checkpoint.targets import VENDOR
from tilepress.compress import compress_directory
from tilepress.engines.vllm import register
from tilepress.engines.vllm.serve.unchanged import VARIABLE
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here; `make test-vllm` runs these tests", allow_module_level=True)

# Read when vLLM is imported. In one process it starts in 2 to 4 seconds, in several in some 20.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.exceptions import VLLMValidationError

NEW_TOKENS = 64
PROMPTS = [[256, 5, 6, 7], [256, *range(60, 100)], [80, 33, 33, 33]]
SHAPE = {"heads": 4, "kv_heads": 2, "head_dim": 32, "hidden": 128}  # vLLM's attention on the CPU begins at heads of 32
NORM_BIASES = {
    f"model.{norm}.bias": torch.linspace(-0.5, 0.5, 128) for norm in ("norm", "layers.0.post_attention_layernorm")
}
MIXED = {
    "float_linears": ["mlp.down_proj", *(f"model.layers.1.self_attn.{name}_proj" for name in "qkv")],
    "extra": {"model.layers.0.mlp.down_proj.bias": torch.linspace(-1, 1, 128), **NORM_BIASES},
}


@contextmanager
def served(directory: Path, **options: Any) -> Iterator[LLM]:
    """vLLM with the model of `directory`, in this process but for tensor and pipeline parallelism."""
    options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, "max_num_seqs": 4, "seed": 0} | options
    try:
        engine = LLM(str(directory), **options)
        yield engine
        del engine
    finally:
        gc.collect()
        cleanup_dist_env_and_memory()


def answers(directory: Path, **options: Any) -> list[list[int]]:
    """What vLLM generates greedily behind each of PROMPTS."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    with served(directory, **options) as engine:
        outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def agreement(directory: Path, answered: list[list[int]]) -> float:
    """Share of answered tokens that the transformers engine would choose behind the tokens before them.

    Sums in another order may turn the rounding of an activation, and that, seldom, a choice between near equals: given
    the tokens before, one such choice is counted once and does not change what follows.
    """
    model, _ = tilepress.load(directory, dtype="float32")
    same = 0
    for prompt, tokens in zip(PROMPTS, answered, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
        same += int((logits.argmax(-1) == torch.tensor(tokens)).sum())
    return same / (len(PROMPTS) * NEW_TOKENS)


@pytest.fixture(scope="module")
def float_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "float", **SHAPE)


@pytest.fixture(scope="module")
def w8a8s(float_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_w8a8s(float_qwen3, tmp_path_factory.mktemp("models") / "w8a8s")


@pytest.fixture
def w8a8sc(w8a8s: Path, tmp_path: Path) -> Path:
    compress_directory(w8a8s, tmp_path / "w8a8sc", tp=1)
    return tmp_path / "w8a8sc"


@pytest.mark.parametrize(
    ("make", "tied", "options"),
    [
        (make_tiny_qwen3, False, {"activations": "overflow", "narrow": 0.5}),
        (make_tiny_qwen3, False, {"activations": "per-token", "narrow": 0.7, "head": True, "embeddings": True}),
        (make_tiny_qwen3, True, {"shared": True}),
        (make_tiny_qwen2, False, {"activations": "overflow"} | MIXED),
        (make_tiny_llama, True, {"activations": "overflow", "extra": NORM_BIASES}),
        (make_tiny_llama, True, {"shared": True}),
    ],
    ids=["qwen3", "qwen3 all quantized", "qwen3 shared table", "qwen2 mixed", "llama tied", "llama shared table"],
)
def test_it_answers_as_the_transformers_engine(make, tied: bool, options: dict[str, Any], tmp_path: Path) -> None:
    quantized = make_w8a8s(make(tmp_path / "float", tied=tied, **SHAPE), tmp_path / "w8a8s", **options)
    answered = answers(quantized)
    assert agreement(quantized, answered) > 0.98
    assert len({tuple(tokens) for tokens in answered}) == len(PROMPTS)
    compress_directory(quantized, tmp_path / "w8a8sc", tp=1)
    assert answers(tmp_path / "w8a8sc") == answered


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2])
def test_the_vendors_w8a8_dynamic(make, tmp_path: Path) -> None:
    theirs = write_dynamic(tmp_path / "theirs", make(tmp_path / "float", **SHAPE))
    answered = answers(theirs, quantization="tilepress")
    assert agreement(theirs, answered) > 0.98
    compress_directory(theirs, tmp_path / "w8a8sc", tp=1)
    assert answers(tmp_path / "w8a8sc") == answered


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2])
def test_stock_vllm_answers_from_what_was_exported(make, mode: str, tmp_path: Path) -> None:
    options = {"activations": mode, "float_linears": ["model.layers.0.mlp.down_proj"]}
    # As quant does: so narrow that practically all tokens have a scale of their own, as all have in vLLM.
    options["narrow"] = 0.01 if mode == "dynamic" else 1.0
    quantized = make_w8a8s(make(tmp_path / "float", **SHAPE), tmp_path / "w8a8s", **options)
    export_directory(quantized, tmp_path / "exported")
    assert agreement(quantized, answers(tmp_path / "exported")) > 0.95


@pytest.mark.parametrize("window", [24, None])
def test_mistral_attends_to_its_window(window: int | None, tmp_path: Path) -> None:
    source = make_tiny_mistral(tmp_path / "float", sliding_window=window, **SHAPE)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", activations="overflow")
    compress_directory(quantized, tmp_path / "w8a8sc", tp=1)
    assert agreement(quantized, answers(tmp_path / "w8a8sc")) > 0.98


def test_a_head_of_its_own_wins_over_a_config_that_calls_it_tied(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=True, **SHAPE)
    head = torch.randn(320, 128, generator=torch.Generator().manual_seed(3)).half()
    quantized = make_w8a8s(source, tmp_path / "w8a8s", extra={"lm_head.weight": head})
    compress_directory(quantized, tmp_path / "w8a8sc", tp=1)
    for directory in (quantized, tmp_path / "w8a8sc"):
        edit_json(directory / "config.json", lambda config: config.update(tie_word_embeddings=True))
        assert agreement(directory, answers(directory)) > 0.98


@pytest.mark.parametrize("shared", [False, True], ids=["float table", "shared table"])
def test_a_vocabulary_that_is_no_multiple_of_64(shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_models, "VOCABULARY", 300)
    source = make_tiny_qwen3(tmp_path / "float", tied=True, **SHAPE)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", shared=shared)
    assert agreement(quantized, answers(quantized)) > 0.98


@pytest.mark.slow
def test_compiled_by_vllm_it_answers_the_same(w8a8sc: Path) -> None:
    assert agreement(w8a8sc, answers(w8a8sc, enforce_eager=False)) > 0.98


@pytest.mark.parametrize("tp", [1, 2])
def test_tensor_parallel_ranks_load_parts_of_another_number(tp: int, float_qwen3: Path, tmp_path: Path) -> None:
    quantized = make_w8a8s(float_qwen3, tmp_path / "w8a8s", head=True, embeddings=True)
    for parts in (4, tp):
        compress_directory(quantized, tmp_path / f"{parts}", tp=parts)
    answered = answers(tmp_path / "4", tensor_parallel_size=tp)
    assert agreement(quantized, answered) > 0.98
    assert answers(tmp_path / f"{tp}", tensor_parallel_size=tp) == answered


def test_pipeline_stages_load_their_layers(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=True, **SHAPE)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", shared=True)
    compress_directory(quantized, tmp_path / "w8a8sc", tp=1)
    # Traced, since on the CPU vLLM 0.32 makes the second stage's buffers in the warm-up that enforce_eager leaves out.
    traced = {"enforce_eager": False, "compilation_config": {"mode": 2, "backend": "eager"}}
    answered = answers(tmp_path / "w8a8sc", pipeline_parallel_size=2, **traced)
    assert agreement(quantized, answered) > 0.98


def test_a_prompt_of_more_than_the_trained_length_is_refused(w8a8sc: Path) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=1)
    with (
        served(w8a8sc, max_model_len=None) as engine,
        pytest.raises(VLLMValidationError, match="context length is 512"),
    ):
        engine.generate([{"prompt_token_ids": [5] * 768}], sampling, use_tqdm=False)


@pytest.mark.parametrize("flavour", ["float16", "bfloat16"])
def test_the_stored_type_is_the_default(flavour: str, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", dtype=getattr(torch, flavour), **SHAPE)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", dtype=flavour, activations="overflow")
    with served(quantized, dtype="auto") as engine:
        assert engine.llm_engine.model_config.dtype == getattr(torch, flavour)
    assert agreement(quantized, answers(quantized, dtype="auto")) > 0.9


def test_linears_stay_compressed(float_qwen3: Path, tmp_path: Path) -> None:
    sparse = make_w8a8s(float_qwen3, tmp_path / "w8a8s", levels=2, head=True, embeddings=True)

    def held(model: torch.nn.Module) -> list[tuple[int, int]]:
        """Bytes of each layer, and what its integers would take."""
        layers: list[Any] = [module for module in model.modules() if hasattr(module, "compressed_shape")]
        sizes = [(layer.parameters(), layer.compressed_shape) for layer in layers]
        return [(sum(parameter.nbytes for parameter in parameters), n * k) for parameters, (n, k) in sizes]

    with served(sparse) as engine:
        (layers,) = engine.apply_model(held)
    assert len(layers) == 2 * 4 + 2
    assert sum(compressed for compressed, _ in layers) < 0.5 * sum(plain for _, plain in layers)


def test_float_models_load_as_before(float_qwen3: Path) -> None:
    assert agreement(float_qwen3, answers(float_qwen3)) > 0.98


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"model\.norm\.weight is missing"),
        (lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.quant_bias"), r"quant_bias is missing"),
        (
            lambda tensors: tensors.update({"model.extra.weight": torch.ones(3)}),
            r"model\.extra\.weight is not a tensor",
        ),
        (lambda tensors: tensors.update({"lm_head.weight": torch.ones(319, 128).half()}), r"lm_head\.weight is .*319"),
    ],
    ids=["missing", "missing scale", "surplus", "mis-shaped"],
)
def test_tensors_that_do_not_match_the_model_are_refused(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, w8a8sc: Path
) -> None:
    (file,) = w8a8sc.glob("part*/*.safetensors")
    edit_tensors(file, change)
    with pytest.raises(CheckpointError, match=message), served(w8a8sc):
        pass


def test_a_damaged_index_is_refused(w8a8sc: Path) -> None:
    (file,) = w8a8sc.glob("part*/*.safetensors")
    edit_tensors(file, lambda tensors: tensors["model.layers.0.mlp.down_proj.index"].fill_(-1))
    with pytest.raises(BitstreamError, match=r"layers\.0\.mlp\.down_proj"), served(w8a8sc):
        pass


@pytest.mark.parametrize("kind", ["float", "w8a8sc"])
def test_a_directory_that_changed_since_the_server_started_is_refused(
    kind: str, float_qwen3: Path, w8a8sc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = float_qwen3 if kind == "float" else w8a8sc
    monkeypatch.setenv(VARIABLE, f"another {directory.resolve()}")
    with pytest.raises(CheckpointError, match="changed while the server was starting"), served(directory):
        pass


def test_a_vendors_directory_is_served_by_name_and_refused_without(tmp_path: Path) -> None:
    ours = make_w8a8s(make_tiny_qwen3(tmp_path / "float", **SHAPE), tmp_path / "w8a8s", activations="static")
    convert_directory(ours, tmp_path / "vendor", VENDOR)
    with pytest.raises(UsageError, match=r"serve it with `tilepress serve .*--quantization tilepress"):
        answers(tmp_path / "vendor")
    assert answers(tmp_path / "vendor", quantization="tilepress") == answers(ours)


def test_another_loader_is_refused(w8a8sc: Path) -> None:
    with pytest.raises(UsageError, match="--load-format auto"), served(w8a8sc, load_format="dummy"):
        pass


def test_importing_tilepress_does_not_import_vllm() -> None:
    code = "import sys, tilepress, tilepress.engines.vllm; print('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_registering_twice_does_no_harm(w8a8sc: Path) -> None:
    register()
    register()
    with served(w8a8sc):
        pass
