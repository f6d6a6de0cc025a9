"""A W8A8SC directory made anew for another number of ranks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantized_directories import edit_tensors, same_tensors, stored_tensors
from quantized_models import make_w8a8s
from tilepress.checkpoint import W8A8SCCheckpoint
from tilepress.compress import compress_directory, decompress_directory, reshard_directory, verify
from tilepress.errors import BitstreamError, CheckpointError
from tiny_models import make_tiny_qwen3

WEIGHTS = "quant_model_weight_w8a8sc.safetensors"
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8S directory whose linears, head and embedding are all quantized, with sums over rows."""
    folder = tmp_path_factory.mktemp("reshard")
    model = make_tiny_qwen3(folder / "float", intermediate=256)
    return make_w8a8s(model, folder / "q", levels=9, head=True, embeddings=True, activations="overflow")


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize("chain", [(1, 4, 2, 1), (8, 2, 8), (2, 2)])
def test_it_is_what_compressing_for_that_number_gives(source: Path, tmp_path: Path, chain: tuple[int, ...]) -> None:
    made = tmp_path / "start"
    compress_directory(source, made, tp=chain[0])
    for step, tp in enumerate(chain[1:]):
        before, made = made, tmp_path / f"{step}"
        reshard_directory(before, made, tp=tp)
        compress_directory(source, tmp_path / f"{step} compressed", tp=tp)
        assert files(made) == files(tmp_path / f"{step} compressed")
        assert verify(source, made).same
    decompress_directory(made, tmp_path / "back")
    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))


def test_it_tells_how_many_tiles_were_encoded(source: Path, tmp_path: Path) -> None:
    compress_directory(source, tmp_path / "c", tp=2)
    seen: list[tuple[int, int]] = []
    made = reshard_directory(
        tmp_path / "c", tmp_path / "c4", tp=4, progress=lambda done, total: seen.append((done, total))
    )
    # A rank of four holds 64 of 128 rows of q, k and v, 128 of 256 of gate and up (64 and 64), a column tile of o and
    # down each, and 80 rows of both tables: one tile each, in two layers, none of them where it was.
    assert (made.before, made.tp, made.tiles, made.encoded) == (2, 4, 4 * (2 * 4 + 2), 4 * (2 * 4 + 2))
    assert seen == [(done, 4 * 9) for done in range(1, 4 * 9 + 1)]
    same = reshard_directory(tmp_path / "c", tmp_path / "c2", tp=2)
    assert (same.encoded, files(tmp_path / "c2")) == (0, files(tmp_path / "c"))


@pytest.mark.parametrize("tp", [0, 3, 16])
def test_a_number_that_does_not_fit_is_refused_with_those_that_do(w8a8sc: Path, tmp_path: Path, tp: int) -> None:
    with pytest.raises(CheckpointError, match=r"8 heads, 4 kv heads.* choose one of 1, 2, 4, 8$"):
        reshard_directory(w8a8sc, tmp_path / "c", tp=tp)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_compressed_is_refused(tiny_qwen3: Path, w8a8s: Path, tmp_path: Path) -> None:
    for directory in (tiny_qwen3, w8a8s):
        with pytest.raises(CheckpointError, match=r"is not compressed; .*`tilepress compress --tp 4`"):
            reshard_directory(directory, tmp_path / "c", tp=4)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_and_kept(w8a8sc: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for out in (tmp_path / "c", w8a8sc):
        with pytest.raises(CheckpointError, match="exists already"):
            reshard_directory(w8a8sc, out, tp=4)
    assert list(tmp_path.rglob("*")) == [tmp_path / "c"]
    assert W8A8SCCheckpoint(w8a8sc).tp == 2


@pytest.mark.parametrize("tp", [1, 2])
def test_a_damaged_tile_is_not_passed_on(w8a8sc_copy: Path, tmp_path: Path, tp: int) -> None:
    """Not even where it would move as bytes, without being looked at."""
    edit_tensors(w8a8sc_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors[f"{DOWN}.weight"].fill_(-1))
    with pytest.raises(BitstreamError, match=rf"part1-of-2: {DOWN}: tile \(0, 0\): "):
        reshard_directory(w8a8sc_copy, tmp_path / "c", tp=tp)
    assert list(tmp_path.iterdir()) == [w8a8sc_copy]


def test_parts_that_disagree_are_refused(w8a8sc_copy: Path, tmp_path: Path) -> None:
    edit_tensors(w8a8sc_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors[f"{DOWN}.quant_bias"].fill_(7))
    with pytest.raises(CheckpointError, match=rf"part1-of-2: {DOWN}: quant_bias is not 0.*; what is finished is kept"):
        reshard_directory(w8a8sc_copy, tmp_path / "c", tp=1)
    assert not (tmp_path / "c").exists()


def test_global_keys_and_auxiliary_files_are_kept(source: Path, tmp_path: Path) -> None:
    compress_directory(source, tmp_path / "c", tp=1)
    reshard_directory(tmp_path / "c", tmp_path / "c8", tp=8)
    description = json.loads((tmp_path / "c8" / "part7-of-8" / "quant_model_description.json").read_text())
    assert (description["activations"], description["model_quant_type"]) == ("overflow", "W8A8SC")
    assert (tmp_path / "c8" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    parts = [load_file(tmp_path / "c8" / f"part{rank}-of-8" / WEIGHTS) for rank in range(8)]
    whole = load_file(tmp_path / "c" / "part0-of-1" / WEIGHTS)
    assert torch.equal(sum(part[f"{DOWN}.weight_sums"] for part in parts), whole[f"{DOWN}.weight_sums"])
    assert torch.equal(parts[0][f"{DOWN}.quant_bias"], whole[f"{DOWN}.quant_bias"])
