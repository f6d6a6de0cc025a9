from __future__ import annotations

from pathlib import Path

import pytest

from quantized_directories import write_json
from tilepress.checkpoint import open_checkpoint
from tilepress.errors import CheckpointError


def test_the_kind_is_what_the_directory_holds(tiny_qwen3: Path, w8a8s: Path, w8a8sc: Path) -> None:
    for path, kind in ((tiny_qwen3, "float"), (w8a8s, "w8a8s"), (w8a8sc, "w8a8sc")):
        checkpoint = open_checkpoint(str(path))
        assert (checkpoint.kind, checkpoint.path, checkpoint.architecture.name) == (kind, path, "Qwen3ForCausalLM")
        assert checkpoint.shape.layers == 2
        assert "tokenizer.json" in [file.name for file in checkpoint.auxiliary_files()]


def test_a_directory_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: missing"):
        open_checkpoint(tmp_path)
    write_json(tmp_path / "config.json", {"architectures": ["Qwen3ForCausalLM"]})
    with pytest.raises(CheckpointError, match=r"not a model directory: .*give the directory of a model"):
        open_checkpoint(tmp_path)


def test_a_file(tiny_qwen3: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; give the directory"):
        open_checkpoint(tiny_qwen3 / "model.safetensors")


@pytest.mark.parametrize("path", ["no-such-model", "/no/such/model", "../no/such", "a/b/c"])
def test_a_path_to_nothing(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such directory, and not a hub id"):
        open_checkpoint(path)


def test_a_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"tilepress-tests/no-such-model: .*could not be downloaded .*network"):
        open_checkpoint("tilepress-tests/no-such-model")


def test_a_hub_id_is_downloaded(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def snapshot_download(name: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append((name, revision, "*.bin" in ignore_patterns))
        return str(tiny_qwen3)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert open_checkpoint("owner/name", revision="v1").path == tiny_qwen3
    assert asked == [("owner/name", "v1", True)]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickles_are_refused(float_copy: Path, name: str) -> None:
    (float_copy / "model.safetensors").rename(float_copy / name)
    with pytest.raises(CheckpointError, match=rf"{name}: pickled weights .* convert the model to safetensors"):
        open_checkpoint(float_copy)


def test_a_quantized_config_without_its_description(w8a8s_copy: Path) -> None:
    (w8a8s_copy / "quant_model_description.json").unlink()
    with pytest.raises(CheckpointError, match=r"quantize is 'w8a8s', but there is neither quant_model_description"):
        open_checkpoint(w8a8s_copy)
