"""Tensors read and written some rows at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilepress.checkpoint.safetensors.reader import TensorFiles
from tilepress.checkpoint.safetensors.writer import stream_tensor
from tilepress.errors import CheckpointError

TABLE = torch.randn(10, 6, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({"small": torch.tensor([3], dtype=torch.int8), "table": TABLE}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_rows_are_those_of_the_tensor_and_not_of_the_mapped_file(file: Path) -> None:
    files = TensorFiles(file)

    rows = files.read("table", 3, 7)

    assert torch.equal(rows, TABLE[3:7])
    rows.zero_()
    assert torch.equal(files.read("table"), TABLE)
    assert torch.equal(files.read("table", 8, 1000), TABLE[8:]), "beyond the end, as slices are"
    assert files.read("small").tolist() == [3]


def test_tensors_without_rows_and_without_dimensions_are_read(tmp_path: Path) -> None:
    tensors = {"none": TABLE[:0], "no columns": TABLE[:, :0].clone(), "scalar": torch.tensor(7)}
    save_file(tensors, tmp_path / "model.safetensors")
    files = TensorFiles(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        read = files.read(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read, tensor)
    assert files.read("no columns", 2, 5).shape == (3, 0)
    assert files.read("none", 0, 5).shape == (0, 6)


def test_no_rows_of_a_table_are_an_empty_tensor(file: Path) -> None:
    assert TensorFiles(file).read("table", 4, 4).shape == (0, 6)


def test_a_file_that_was_cut_since_it_was_opened_is_refused_by_name(file: Path) -> None:
    files = TensorFiles(file)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 20)

    with pytest.raises(CheckpointError, match=r"model.safetensors: ends inside of table"):
        files.read("table")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
def test_a_tensor_written_in_parts_is_a_safetensors_file(dtype: torch.dtype, tmp_path: Path) -> None:
    table = (10 * TABLE).to(dtype)

    stream_tensor(tmp_path / "table.safetensors", "table", table.shape, dtype, torch.split(table, 3))

    assert torch.equal(load_file(tmp_path / "table.safetensors")["table"], table)
