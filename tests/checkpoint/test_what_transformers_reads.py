"""What transformers loads as the class is what `quant`, `load` and `eval` read: one table of variants, both readers."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quantized_directories import edit_json, edit_tensors, write_json
from tilepress.checkpoint import FloatCheckpoint, open_checkpoint
from tilepress.errors import CheckpointError, TilepressWarning
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

WEIGHTS = "model.safetensors"


def without(*keys: str) -> Callable[[Path], None]:
    return lambda model: edit_json(model / "config.json", lambda config: [config.pop(key) for key in keys])


def saying(**fields: object) -> Callable[[Path], None]:
    return lambda model: edit_json(model / "config.json", lambda config: config.update(fields))


def flat(model: Path) -> None:
    """As Qwen3-Embedding is published."""
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(model / WEIGHTS).items()}
    (model / WEIGHTS).unlink()
    save_file(tensors, model / WEIGHTS)


def one_prefix_more(model: Path) -> None:
    """As a wrapper around the model saves it."""
    tensors = {f"model.{name}": tensor for name, tensor in load_file(model / WEIGHTS).items()}
    (model / WEIGHTS).unlink()
    save_file(tensors, model / WEIGHTS)


def storing(name: str, of: str | None = None, add: float = 0.0) -> Callable[[Path], None]:
    """One tensor more: a copy of `of`, or ones."""

    def edit(model: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors[name] = torch.ones(4, 64) if of is None else tensors[of] + add

        edit_tensors(model / WEIGHTS, change)

    return edit


def only_the_head(model: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    edit_tensors(model / WEIGHTS, change)


def beside_an_index(model: Path) -> None:
    other = make_tiny_qwen3(model.parent / "other", sharded=True, seed=1)
    for file in other.glob("model*"):
        shutil.copy(file, model)


def stale_index(model: Path) -> None:
    """It names the head that a tied model does not store."""
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).rename(model / "model-00001-of-00001.safetensors")
    placed = dict.fromkeys([*tensors, "lm_head.weight"], "model-00001-of-00001.safetensors")
    write_json(model / "model.safetensors.index.json", {"metadata": {}, "weight_map": placed})


VARIANTS: dict[str, tuple[Callable[..., Path], dict[str, object], Callable[[Path], None]]] = {
    "as saved": (make_tiny_qwen3, {}, lambda model: None),
    "flat names": (make_tiny_qwen3, {"tied": True}, flat),
    "one prefix more": (make_tiny_qwen3, {}, one_prefix_more),
    "float64": (make_tiny_llama, {"dtype": torch.float64}, lambda model: None),
    "no architectures": (make_tiny_qwen3, {}, without("architectures")),
    "architectures of the base model": (make_tiny_qwen3, {}, saying(architectures=["Qwen3Model"])),
    "an old spelling of the class": (make_tiny_llama, {}, saying(architectures=["LLaMAForCausalLM"])),
    "no max_position_embeddings": (make_tiny_llama, {}, without("max_position_embeddings")),
    "no head_dim: 128 is the class's": (make_tiny_qwen3, {"head_dim": 128}, without("head_dim")),
    "no head_dim: it follows": (make_tiny_llama, {"head_dim": 8}, without("head_dim")),
    "no kv heads: 32 are the class's": (
        make_tiny_qwen2,
        {"heads": 32, "kv_heads": 32, "hidden": 256, "head_dim": 8},
        without("num_key_value_heads"),
    ),
    "no kv heads: as many as heads": (make_tiny_llama, {"kv_heads": 8}, without("num_key_value_heads")),
    "null kv heads": (make_tiny_llama, {"kv_heads": 8}, saying(num_key_value_heads=None)),
    "no kv heads: 8 are the class's": (make_tiny_mistral, {"kv_heads": 8}, without("num_key_value_heads")),
    "not said to be tied": (make_tiny_qwen3, {}, without("tie_word_embeddings")),
    "tied, and an equal head stored": (
        make_tiny_qwen3,
        {"tied": True},
        storing("lm_head.weight", "model.embed_tokens.weight"),
    ),
    "tied, and another head stored": (
        make_tiny_qwen3,
        {"tied": True},
        storing("lm_head.weight", "model.embed_tokens.weight", add=0.25),
    ),
    "tied, and only the head stored": (make_tiny_qwen3, {"tied": True}, only_the_head),
    "the index names the head of a tied model": (make_tiny_qwen3, {"tied": True}, stale_index),
    "one file beside an index of others": (make_tiny_qwen3, {}, beside_an_index),
    "a head for another task": (make_tiny_qwen3, {}, storing("score.weight")),
    "rotary frequencies": (make_tiny_llama, {}, storing("model.layers.0.self_attn.rotary_emb.inv_freq")),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore::tilepress.errors.TilepressWarning")
def test_both_readers_find_the_same_model(variant: str, tmp_path: Path) -> None:
    make, options, change = VARIANTS[variant]
    change(make(tmp_path / "model", **options))

    dtype = torch.float64 if variant == "float64" else torch.float16
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    ours = FloatCheckpoint(tmp_path / "model")

    assert ours.architecture.name == type(theirs).__name__
    tensors = theirs.state_dict()
    tied = tensors["lm_head.weight"].data_ptr() == tensors["model.embed_tokens.weight"].data_ptr()
    assert ours.shape.tied == tied
    assert sorted(ours.names()) == sorted(tensors.keys() - ({"lm_head.weight"} if tied else set()))
    for name in ours.names():
        assert torch.equal(ours.tensor(name), tensors[name]), name
        assert torch.equal(ours.read(name, 1, 3), tensors[name][1:3]), name
    config = theirs.config
    for key in ("num_key_value_heads", "max_position_embeddings", "vocab_size"):
        assert ours.config[key] == getattr(config, key), key


# Where transformers draws weights at random or leaves a part of the decoder out, with a warning at most, we refuse.
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head": (
        lambda model: edit_tensors(model / WEIGHTS, lambda tensors: tensors.pop("lm_head.weight")),
        'tensor lm_head.weight is missing; set "tie_word_embeddings": true in config.json if',
    ),
    "a missing layer": (saying(num_hidden_layers=3, layer_types=None), "model.layers.2.* is missing"),
    "a layer too many": (saying(num_hidden_layers=1, layer_types=None), "model.layers.1.* is not a tensor of Qwen3"),
    "a bias that the config does not announce": (
        storing("model.layers.0.self_attn.o_proj.bias", "model.norm.weight"),
        "o_proj.bias is not a tensor of",
    ),
    "both names of a tensor": (storing("norm.weight", "model.norm.weight"), "holds norm.weight, and model.norm.weight"),
    "another model type": (saying(model_type="bert"), "model_type is 'bert', architectures is .*Qwen3ForCausalLM"),
    "a class of another type": (saying(model_type="llama"), "'llama', which is LlamaForCausalLM, but architectures"),
}


@pytest.mark.parametrize("variant", REFUSED)
def test_what_would_be_another_model_is_refused(variant: str, float_copy: Path) -> None:
    change, message = REFUSED[variant]
    change(float_copy)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(float_copy)


def test_what_is_not_read_is_said(float_copy: Path) -> None:
    storing("score.weight")(float_copy)
    with pytest.warns(TilepressWarning, match=r"1 tensors are not read, such as score\.weight"):
        open_checkpoint(float_copy)


def test_which_of_two_files_is_read_is_said_aloud(float_copy: Path) -> None:
    beside_an_index(float_copy)
    with pytest.warns(TilepressWarning, match=r"model\.safetensors is read, as transformers does; remove the one"):
        assert open_checkpoint(float_copy).files() == [float_copy / WEIGHTS]
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(float_copy / WEIGHTS), WEIGHTS)}
    write_json(float_copy / "model.safetensors.index.json", index)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_checkpoint(float_copy)


def adapter(folder: Path) -> None:
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen3-8B", "peft_type": "LORA"})
    save_file({"base_model.model.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def hub_cache(folder: Path) -> None:
    (folder / "snapshots" / "0123abc").mkdir(parents=True)
    write_json(folder / "snapshots" / "0123abc" / "config.json", {})
    (folder / "refs").mkdir()


def pointer(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_json(folder / "config.json", {"model_type": "llama"})
        (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 99\n")

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (adapter, "holds a LoRA adapter of Qwen/Qwen3-8B, not a model; merge it"),
        (hub_cache, "is the hub cache's folder of a model; give its snapshot, .*snapshots/0123abc"),
        (
            pointer("model.safetensors"),
            "model.safetensors: is a git-lfs pointer, not the file itself; run `git lfs pull`",
        ),
        (pointer("model.safetensors.index.json"), "index.json: is a git-lfs pointer"),
        (pointer("config.json"), "config.json: is a git-lfs pointer"),
        (lambda folder: (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF"), "Q4_K_M.gguf: GGUF files are not read"),
    ],
    ids=["LoRA", "hub cache", "weights", "index", "config", "GGUF"],
)
def test_other_folders_are_named_for_what_they_are(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path)) + f".*{message}"):
        open_checkpoint(tmp_path)


def test_a_config_is_completed_for_those_who_read_the_result(float_copy: Path) -> None:
    without("architectures", "max_position_embeddings")(float_copy)
    config = open_checkpoint(float_copy).config
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] == 32768
    assert json.loads((float_copy / "config.json").read_text()).keys() < config.keys()
