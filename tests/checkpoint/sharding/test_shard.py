"""A directory made for any number of ranks gives each rank of any other number what compressing for it would have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quantized_directories import edit_tensors, same_tensors, write_vendor_like
from quantized_models import make_w8a8s
from tilepress import codec
from tilepress.checkpoint import Shard, W8A8SCCheckpoint, W8A8SCheckpoint, open_checkpoint
from tilepress.compress import compress_directory
from tilepress.errors import BitstreamError, CheckpointError
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3

WEIGHTS, DESCRIPTION = "quant_model_weight_w8a8sc.safetensors", "quant_model_description.json"
DOWN = "model.layers.1.mlp.down_proj"
FLOATS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "model.layers.1.mlp.down_proj")

# What a model may hold. All have 8 heads and 4 kv heads, so that of eight ranks two hold each kv head.
MODELS: dict[str, Callable[[Path], Path]] = {
    "float tables, bfloat16": lambda folder: make_w8a8s(
        make_tiny_qwen3(folder / "float"), folder / "q", dtype="bfloat16", levels=9
    ),
    "quantized tables, sums of all": lambda folder: make_w8a8s(
        make_tiny_qwen3(folder / "float"), folder / "q", head=True, embeddings=True, activations="overflow"
    ),
    "one shared table": lambda folder: make_w8a8s(
        make_tiny_qwen3(folder / "float", tied=True), folder / "q", shared=True, activations="overflow"
    ),
    "a tied float table, dynamic linears": lambda folder: make_w8a8s(
        make_tiny_llama(folder / "float", tied=True, kv_heads=4), folder / "q", activations="per-token"
    ),
    "float linears, their biases, norm biases": lambda folder: make_w8a8s(
        make_tiny_qwen2(folder / "float", hidden=128, kv_heads=4),
        folder / "q",
        float_linears=FLOATS,
        extra={f"{DOWN}.bias": torch.randn(128), "model.norm.bias": torch.randn(128)},
    ),
    "the vendor's": lambda folder: write_vendor_like(
        folder / "q", make_tiny_qwen2(folder / "float", tied=True, hidden=128)
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same model compressed for each number of ranks; under 0 the W8A8S directory."""
    folder = tmp_path_factory.mktemp("rank")
    directories = {0: MODELS[request.param](folder)}
    for tp in (1, 2, 4, 8):
        directories[tp] = folder / f"c{tp}"
        compress_directory(directories[0], directories[tp], tp=tp)
    return directories


def part(directory: Path, rank: int, tp: int) -> Path:
    return directory / f"part{rank}-of-{tp}"


@pytest.mark.filterwarnings("ignore:.*duplicate tensors")
@pytest.mark.parametrize("held", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_it_is_the_part_that_compressing_makes(model: dict[int, Path], held: int, tp: int) -> None:
    checkpoint = open_checkpoint(model[held])
    assert isinstance(checkpoint, W8A8SCheckpoint | W8A8SCCheckpoint)
    for rank in range(tp):
        made = part(model[tp], rank, tp)
        share = checkpoint.shard(rank, tp, threads=1)
        assert same_tensors(dict(share.tensors()), load_file(made / WEIGHTS))
        types = {entry.name: entry.type for module in share.modules() for entry in share.entries(module)}
        description: dict[str, Any] = json.loads((made / DESCRIPTION).read_text())
        assert types == {name: kind for name, kind in description.items() if "." in name}


@pytest.mark.filterwarnings("ignore:.*duplicate tensors")
def test_what_a_directory_was_made_for_is_not_encoded_again(model: dict[int, Path]) -> None:
    for tp in (1, 2, 4, 8):
        checkpoint = W8A8SCCheckpoint(model[tp])
        shares = [checkpoint.shard(rank, tp) for rank in range(tp)]
        for share in shares:
            list(share.tensors())
            assert share.tiles > share.encoded == 0
        prefix = checkpoint.fused_groups()[0]
        own = shares[-1].compressed_linear(prefix), checkpoint.parts[-1].compressed_linear(prefix)
        assert own[0].weight.weight.ctypes.data == own[1].weight.weight.ctypes.data  # mapped, not copied


@pytest.fixture(scope="module")
def of_whole_tiles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Heads of 128 rows and 256 intermediate channels a rank: at two and four ranks cuts lie on tile borders.

    There are two kv heads; columns of o_proj fall on a border at two ranks only.
    """
    folder = tmp_path_factory.mktemp("whole-tiles")
    tiny = make_tiny_qwen3(folder / "float", layers=1, heads=4, kv_heads=2, head_dim=128, intermediate=1024)
    source = make_w8a8s(tiny, folder / "q", levels=5, embeddings=True, activations="overflow")
    for tp in (1, 2, 4):
        compress_directory(source, folder / f"c{tp}", tp=tp)
    return {tp: folder / f"c{tp}" for tp in (1, 2, 4)}


def encoded_tiles(share: Shard) -> dict[str, tuple[int, int]]:
    """Of each compressed module, how many tiles were encoded of how many; the names without the layer."""
    counts = {}
    for module in share.modules():
        before = share.encoded, share.tiles
        share.entries(module)
        if share.is_quantized(module):
            counts[module.removeprefix("model.layers.0.")] = share.encoded - before[0], share.tiles - before[1]
    return counts


@pytest.mark.parametrize("held", [1, 2, 4])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_only_tiles_that_a_cut_goes_through_are_encoded(of_whole_tiles: dict[int, Path], held: int, tp: int) -> None:
    checkpoint = W8A8SCCheckpoint(of_whole_tiles[held])
    for rank in range(tp):
        share = checkpoint.shard(rank, tp)
        counts = encoded_tiles(share)
        for name in ("self_attn.query_key_value", "mlp.gate_up_proj", "mlp.down_proj"):
            assert counts[name][0] == 0
        # 512 columns, 128 of them a rank of four: its tile is half as wide as a whole one
        columns = 512 // tp // 256 or 1
        assert counts["self_attn.o_proj"] == (columns if 4 in (held, tp) and held != tp else 0, columns)
        assert same_tensors(dict(share.tensors()), load_file(part(of_whole_tiles[tp], rank, tp) / WEIGHTS))


def test_only_wanted_modules_are_read(w8a8sc_copy: Path) -> None:
    """A stage of a pipeline does not pay for the other stages' layers: here they could not even be read."""
    for rank in range(2):
        file = part(w8a8sc_copy, rank, 2) / WEIGHTS
        edit_tensors(file, lambda tensors: tensors["model.layers.1.mlp.down_proj.index"].fill_(-1))
    share = W8A8SCCheckpoint(w8a8sc_copy).shard(1, 4)
    stage = dict(share.tensors(lambda module: not module.startswith("model.layers.1.")))
    assert "model.layers.0.mlp.down_proj.weight" in stage
    assert not [name for name in stage if name.startswith("model.layers.1.")]
    with pytest.raises(BitstreamError, match=r"model.layers.1.mlp.down_proj: "):
        list(share.tensors())


def test_tensors_come_one_module_at_a_time(w8a8sc: Path) -> None:
    share = W8A8SCCheckpoint(w8a8sc).shard(0, 4)
    name, _ = next(share.tensors())
    assert name == "model.layers.0.self_attn.query_key_value.weight"
    assert share.tiles == 1


def test_ranks_that_do_not_exist(w8a8s: Path, w8a8sc: Path) -> None:
    for checkpoint in (W8A8SCheckpoint(w8a8s), W8A8SCCheckpoint(w8a8sc)):
        with pytest.raises(CheckpointError, match=r"3 tensor-parallel parts do not fit 8 heads.*one of 1, 2, 4, 8$"):
            checkpoint.shard(0, 3)
        for rank in (-1, 2):
            with pytest.raises(ValueError, match=rf"no rank {rank} of 2"):
                checkpoint.shard(rank, 2)
        with pytest.raises(CheckpointError, match=r"model.nonsense is no float tensor"):
            checkpoint.shard(0, 2).float_tensor("model.nonsense")


def test_damage_is_reported_with_directory_and_tensor(w8a8sc_copy: Path) -> None:
    edit_tensors(part(w8a8sc_copy, 1, 2) / WEIGHTS, lambda tensors: tensors[f"{DOWN}.weight"].fill_(-1))
    checkpoint = W8A8SCCheckpoint(w8a8sc_copy)
    with pytest.raises(BitstreamError, match=rf"{w8a8sc_copy}: {DOWN}: tile \(0, 0\): "):
        checkpoint.shard(3, 4).compressed_linear(DOWN)
    assert checkpoint.shard(0, 4).compressed_linear(DOWN).weight.shape == (64, 32)  # all of it is of part 0
    with pytest.raises(BitstreamError, match=r"tile \(0, 0\)"):
        codec.validate(checkpoint.shard(1, 2).compressed_linear(DOWN).weight)
