"""tilepress.load: which directories run, that they compute what the format says, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import tilepress
from quantized_models import make_w8a8s
from reference_model import logits_of, reference_model
from tilepress import CheckpointError, UsageError
from tilepress.checkpoint import Shard, open_checkpoint
from tilepress.compress import compress_directory
from tilepress.engines.transformers.compressed_embedding import CompressedEmbedding
from tilepress.engines.transformers.compressed_linear import CompressedLinear
from tilepress.engines.transformers.model import build_quantized_model
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3


def loaded(path: Path, **options: object) -> PreTrainedModel:
    model, _ = tilepress.load(path, **options)
    return model


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (make_tiny_qwen3, {}),
        (make_tiny_qwen2, {"head_dim": 8}),
        (make_tiny_llama, {}),
        (make_tiny_mistral, {"sliding_window": None}),
        (make_tiny_mistral, {"sliding_window": 8}),
    ],
    ids=["qwen3", "qwen2", "llama", "mistral", "mistral with a window"],
)
def test_quantized_directories_compute_what_the_format_defines(
    make: Callable[..., Path], options: dict[str, Any], tied: bool, tmp_path: Path
) -> None:
    source = make(tmp_path / "float", tied=tied, **options)
    quantized = make_w8a8s(source, tmp_path / "w8a8s")
    expected = logits_of(reference_model(source, quantized))
    assert torch.equal(logits_of(loaded(quantized)), expected)
    for tp in (1, 2, 4):
        compressed = tmp_path / f"w8a8sc-{tp}"
        compress_directory(quantized, compressed, tp=tp)
        assert torch.equal(logits_of(loaded(compressed)), expected), f"tp {tp}"


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_quantized_head_is_a_compressed_linear(tied: bool, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=tied)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", head=True)
    compress_directory(quantized, tmp_path / "w8a8sc", tp=2)
    for dtype in (torch.float32, torch.bfloat16):
        expected = logits_of(reference_model(source, quantized, dtype))
        for directory in (quantized, tmp_path / "w8a8sc"):
            model = loaded(directory, dtype=dtype)
            assert isinstance(model.get_output_embeddings(), CompressedLinear)
            assert model.config.tie_word_embeddings is False
            assert torch.equal(logits_of(model), expected)
    ids = torch.tensor([[256, 5, 6]])
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 6)


@pytest.mark.parametrize(("tied", "head"), [(False, False), (False, True), (True, True)])
def test_a_quantized_embedding_stays_compressed(tied: bool, head: bool, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=tied)
    quantized = make_w8a8s(source, tmp_path / "w8a8s", head=head, embeddings=True)
    compress_directory(quantized, tmp_path / "w8a8sc", tp=2)
    for dtype in (torch.float32, torch.bfloat16):
        expected = logits_of(reference_model(source, quantized, dtype))
        for directory in (quantized, tmp_path / "w8a8sc"):
            model = loaded(directory, dtype=dtype)
            assert isinstance(model.get_input_embeddings(), CompressedEmbedding)
            assert model.dtype == dtype
            assert torch.equal(logits_of(model), expected)
    ids = torch.tensor([[256, 5, 6]])
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 6)
    assert repr(model.get_input_embeddings()).startswith("CompressedEmbedding(320, 64, bits=")
    with pytest.raises(IndexError, match="ids holds 320"):
        model(torch.tensor([[320]]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_both_flavours_run_in_any_compute_type(dtype: str, tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", dtype=getattr(torch, dtype))
    quantized = make_w8a8s(source, tmp_path / "w8a8s", dtype=dtype)
    for name, compute in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        model = loaded(quantized, dtype=name)
        assert model.dtype == compute
        assert torch.equal(logits_of(model), logits_of(reference_model(source, quantized, compute)))


def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(tiny_w8a8s: Path) -> None:
    model = loaded(tiny_w8a8s)
    ids = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model(ids).logits[0, -1]
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        step = model(ids[:, -1:], past_key_values=cache).logits[0, -1]
    torch.testing.assert_close(step, whole, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("tp", [1, 2])
def test_linears_left_float_run_beside_compressed_ones(tp: int, tmp_path: Path) -> None:
    """The vendor's tool leaves down_proj float; one layer's q, k, v here too, and down_proj with a bias."""
    source = make_tiny_qwen2(tmp_path / "float", head_dim=8)
    bias = torch.linspace(-1, 1, 64)
    kept = ["mlp.down_proj", *(f"model.layers.1.self_attn.{name}_proj" for name in "qkv")]
    quantized = make_w8a8s(
        source, tmp_path / "w8a8s", float_linears=kept, extra={"model.layers.0.mlp.down_proj.bias": bias}
    )
    expected = reference_model(source, quantized)
    expected.model.layers[0].mlp.down_proj.bias = torch.nn.Parameter(bias.half().float())
    compress_directory(quantized, tmp_path / "w8a8sc", tp=tp)
    for directory in (quantized, tmp_path / "w8a8sc"):
        assert torch.equal(logits_of(loaded(directory)), logits_of(expected))


def test_norm_biases_of_the_vendors_smoothing_are_applied(tiny_qwen3: Path, tmp_path: Path) -> None:
    bias = torch.linspace(-0.5, 0.5, 64).half()
    extra = {
        "model.layers.0.input_layernorm.bias": bias,
        "model.norm.bias": bias.clone(),
        "model.layers.1.input_layernorm.bias": 0 * bias,
    }
    quantized = make_w8a8s(tiny_qwen3, tmp_path / "w8a8s", extra=extra)
    expected = reference_model(tiny_qwen3, quantized)
    for norm in (expected.model.layers[0].input_layernorm, expected.model.norm):
        norm.register_forward_hook(lambda module, arguments, output: output + bias.float())
    assert torch.equal(logits_of(loaded(quantized)), logits_of(expected))


def test_a_head_of_its_own_wins_over_a_config_that_calls_it_tied(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", tied=True)
    head = torch.randn(320, 64, generator=torch.Generator().manual_seed(3)).half()
    quantized = make_w8a8s(source, tmp_path / "w8a8s", extra={"lm_head.weight": head})
    edit_json(quantized / "config.json", tie_word_embeddings=True)
    model = loaded(quantized)
    assert torch.equal(model.lm_head.weight, head)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_float_directories_load_as_transformers_loads_them(tiny_qwen3: Path) -> None:
    model, tokenizer = tilepress.load(tiny_qwen3)
    assert model.dtype == torch.float32
    assert tokenizer.decode(tokenizer("Grüße")["input_ids"]) == "Grüße"
    expected = AutoModelForCausalLM.from_pretrained(tiny_qwen3, dtype=torch.float32)
    assert torch.equal(logits_of(model), logits_of(expected))


def test_the_stored_generation_config_is_used(tiny_w8a8s: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_w8a8s, tmp_path / "copy"))
    (directory / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "top_k": 7, "eos_token_id": [257, 258]})
    )
    config = loaded(directory).generation_config
    assert (config.do_sample, config.top_k, config.eos_token_id) == (True, 7, [257, 258])
    (directory / "generation_config.json").unlink()
    assert loaded(directory).generation_config.eos_token_id == 257
    (directory / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        tilepress.load(directory)


def test_every_tensor_is_placed(tiny_w8a8s: Path) -> None:
    model = loaded(tiny_w8a8s)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [name for name, tensor in tensors if tensor.is_meta]
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_the_representation_tells_shape_and_bits(tiny_w8a8s: Path) -> None:
    shown = repr(loaded(tiny_w8a8s).model.layers[0].mlp)
    assert "(gate_up_proj): FusedLinear(in_features=64, out_features=256, bits=" in shown
    assert "(up_proj): FusedMember(in_features=64, out_features=128)" in shown
    assert "(down_proj): CompressedLinear(in_features=128, out_features=64, bits=" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: [name for name in names if name != "model.norm.weight"], r"model\.norm\.weight is missing"),
        (lambda names: [*names, "model.extra.bias"], r"no place for tensor model\.extra\.bias"),
    ],
    ids=["missing", "surplus"],
)
def test_tensors_that_do_not_match_the_model_are_refused(
    change: Callable[[list[str]], list[str]], message: str, tiny_w8a8s: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(tiny_w8a8s)
    names, tensor = checkpoint.float_names(), checkpoint.float_tensor
    monkeypatch.setattr(checkpoint, "float_names", lambda: change(names))
    monkeypatch.setattr(checkpoint, "float_tensor", lambda name: tensor(name) if name in names else torch.zeros(64))
    with pytest.raises(CheckpointError, match=message):
        build_quantized_model(checkpoint, torch.float32)


def test_a_tensor_of_another_shape_is_refused(tiny_w8a8s: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(tiny_w8a8s)
    tensor = checkpoint.float_tensor
    monkeypatch.setattr(checkpoint, "float_tensor", lambda name: tensor(name)[:-1])
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is \[319, 64\]"):
        build_quantized_model(checkpoint, torch.float32)


def test_values_beyond_float16_are_not_turned_into_infinities(tmp_path: Path) -> None:
    source = make_tiny_qwen3(tmp_path / "float", dtype=torch.bfloat16)
    extra = {"model.norm.bias": torch.full((64,), 1e6)}
    quantized = make_w8a8s(source, tmp_path / "w8a8s", dtype="bfloat16", extra=extra)
    with pytest.raises(UsageError, match=r"model\.norm\.bias has values beyond the range of float16"):
        tilepress.load(quantized, dtype="float16")


def test_a_directory_without_a_tokenizer_is_refused(tiny_w8a8s: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_w8a8s, tmp_path / "copy"))
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json; copy"):
        tilepress.load(directory)


def test_a_config_that_transformers_refuses_is_reported_with_its_file(tiny_w8a8s: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_w8a8s, tmp_path / "copy"))
    edit_json(directory / "config.json", hidden_act="no_such_function")
    with pytest.raises(CheckpointError, match=r"config\.json: .*no_such_function"):
        tilepress.load(directory)


def test_unknown_types_and_absent_devices_are_usage_errors(tiny_w8a8s: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="use one of float32, bfloat16, float16"):
        tilepress.load(tiny_w8a8s, dtype="int8")
    with pytest.raises(UsageError, match="unknown device"):
        tilepress.load(tiny_w8a8s, device="gpu")
    with pytest.raises(UsageError, match="install torch_npu"):
        tilepress.load(tiny_w8a8s, device="npu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="install a CUDA build of torch"):
        tilepress.load(tiny_w8a8s, device="cuda")


def test_transformers_alone_does_not_load_garbage(tiny_w8a8s: Path, tmp_path: Path) -> None:
    """Where nobody imported tilepress, it refuses."""
    compress_directory(tiny_w8a8s, tmp_path / "w8a8sc", tp=1)
    for directory in (tiny_w8a8s, tmp_path / "w8a8sc"):
        code = f"import transformers; transformers.AutoModelForCausalLM.from_pretrained({str(directory)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode
        assert "Error" in done.stderr.splitlines()[-1]


def test_importing_tilepress_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, tilepress; tilepress.__version__; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        tilepress.save  # noqa: B018


def edit_json(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("kind", ["w8a8s", "w8a8sc"])
def test_a_model_comes_through_one_door(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is made for each tensor costs the square of the layers."""
    directory = make_w8a8s(make_tiny_qwen3(tmp_path / "float", layers=6), tmp_path / "w8a8s")
    if kind == "w8a8sc":
        compress_directory(directory, tmp_path / "w8a8sc", tp=2)
    made: list[int] = []
    genuine = Shard.__init__
    monkeypatch.setattr(Shard, "__init__", lambda self, *a: (made.append(1), genuine(self, *a))[1])
    tilepress.load(tmp_path / kind)
    assert len(made) <= 2, "one for linears, one for other tensors"
