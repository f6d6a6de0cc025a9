"""The entropy-coded form of a W8A8SC directory: smaller on disk, and the same model when it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import tilepress
from quantized_directories import edit_json, same_tensors, stored_tensors
from quantized_models import make_w8a8s
from tilepress.checkpoint import FloatCheckpoint, W8A8SCCheckpoint, W8A8SCheckpoint, summarize
from tilepress.checkpoint.description import DESCRIPTION
from tilepress.cli import main
from tilepress.compress import compress_directory, compressible, decompress_directory, reshard_directory, verify
from tilepress.errors import BitstreamError, CheckpointError
from tilepress.quantize import Recipe, quantize_checkpoint
from tiny_models import make_tiny_llama

WEIGHTS = "quant_model_weight_w8a8sc.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8S directory with a shared table, wide enough that tables of frequencies pay."""
    folder = tmp_path_factory.mktemp("models")
    float_model = make_tiny_llama(folder / "float", hidden=256, intermediate=512, tied=True)
    return make_w8a8s(float_model, folder / "w8a8s", levels=7, shared=True)


@pytest.fixture(scope="module")
def coded(source: Path) -> Path:
    out = source.parent / "entropy"
    compress_directory(source, out, tp=2, coding="entropy")
    return out


def test_it_is_smaller_and_holds_the_same(source: Path, coded: Path, tmp_path: Path) -> None:
    compress_directory(source, tmp_path / "tiles", tp=2, coding="tiles")

    assert verify(source, coded).same
    smaller, larger = (summarize(W8A8SCCheckpoint(path)).bits_per_weight for path in (coded, tmp_path / "tiles"))
    assert smaller is not None
    assert larger is not None
    assert smaller < larger


def test_both_answer_alike(coded: Path, source: Path, tmp_path: Path) -> None:
    compress_directory(source, tmp_path / "tiles", coding="tiles")
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        one, other = (tilepress.load(path)[0](ids).logits for path in (coded, tmp_path / "tiles"))
    assert torch.equal(one, other)


def test_it_is_made_for_other_ranks_and_back(source: Path, coded: Path, tmp_path: Path) -> None:
    made = reshard_directory(coded, tmp_path / "one", tp=1)
    assert made.encoded == made.tiles > 0
    compress_directory(source, tmp_path / "compressed", tp=1, coding="entropy")
    for file in (f"part0-of-1/{WEIGHTS}", f"part0-of-1/{DESCRIPTION}"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "compressed" / file).read_bytes()

    decompress_directory(coded, tmp_path / "back")
    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))


def test_compress_follows_what_the_directory_was_quantized_for(source: Path, tmp_path: Path) -> None:
    asked = Path(shutil.copytree(source, tmp_path / "asked"))
    edit_json(asked / DESCRIPTION, lambda description: description.update(coding="entropy"))
    commands = {"default": f"-m {source}", "follows": f"-m {asked}", "given": f"-m {asked} --coding tiles"}
    found = {}
    for name, options in commands.items():
        assert main(f"compress {options} -o {tmp_path / name}".split()) == 0
        found[name] = json.loads((tmp_path / name / "part0-of-1" / DESCRIPTION).read_text()).get("coding")
    assert found == {"default": None, "follows": "entropy", "given": None}

    edit_json(asked / DESCRIPTION, lambda description: description.update(coding="zip"))
    with pytest.raises(CheckpointError, match="coding is 'zip'; it has to be tiles or entropy"):
        compress_directory(asked, tmp_path / "zip")


def test_an_unknown_coding_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"compress -m {source} -o {tmp_path / 'c'} --coding zip".split()) == 2
    assert "choose one of tiles, entropy" in capsys.readouterr().err
    with pytest.raises(tilepress.UsageError, match="coding is 'zip'"):
        Recipe(coding="zip")


def test_another_coding_does_not_go_on_with_an_unfinished_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_directory(source, tmp_path / "c", coding="tiles", progress=stop)
    with pytest.raises(CheckpointError, match="restart"):
        compress_directory(source, tmp_path / "c", coding="entropy")


def test_damage_is_named(coded: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(coded, damaged)
    file = damaged / "part0-of-2" / WEIGHTS
    content = bytearray(file.read_bytes())
    header = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + header])["model.layers.0.mlp.down_proj.weight"]
    content[8 + header + entry["data_offsets"][1] - 40] ^= 4
    file.write_bytes(content)
    with pytest.raises(BitstreamError, match=r"model\.layers\.0\.mlp\.down_proj"):
        tilepress.load(damaged)


@pytest.mark.parametrize("whole", [False, True])
def test_quant_meets_its_target_in_the_coding_that_it_was_given(whole: bool, calibration: Path, tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "float", hidden=256, intermediate=512, tied=True)
    target = {"size": 900_000, "head": True, "embeddings": True} if whole else {"bits": 4.0}
    recipe = Recipe(samples=4, sequence_length=64, distill_steps=0, coding="entropy", **target)
    report = quantize_checkpoint(FloatCheckpoint(source), tmp_path / "w8a8s", recipe, calibration=calibration)
    compress_directory(tmp_path / "w8a8s", tmp_path / "c")

    summary = summarize(W8A8SCCheckpoint(tmp_path / "c"))
    if whole:
        assert summary.weight_bytes == pytest.approx(900_000, rel=0.03)
    else:
        assert summary.bits_per_weight == pytest.approx(4.0, abs=0.15)
        assert report.bits == pytest.approx(summary.bits_per_weight, abs=0.15)
    assert compressible(W8A8SCheckpoint(tmp_path / "w8a8s")).output == pytest.approx(summary.weight_bytes, rel=0.02)
    assert json.loads((tmp_path / "c" / "part0-of-1" / DESCRIPTION).read_text())["coding"] == "entropy"
    planned = f"plan {source} --coding entropy --bits 4.0 --json"
    assert main(planned.split()) == 0
