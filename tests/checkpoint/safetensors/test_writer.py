"""A safetensors file written tensor after tensor: what the safetensors library reads of it, and going on with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from tilepress.checkpoint.safetensors.reader import DTYPES
from tilepress.checkpoint.safetensors.writer import StreamingFile, Written
from tilepress.errors import CheckpointError

TENSORS = {
    "weight": torch.arange(-64, 64, dtype=torch.int8).reshape(2, 64),
    "offset": torch.tensor([7], dtype=torch.int8),
    "scale": torch.tensor([0.5], dtype=torch.bfloat16),
    "info": torch.arange(5),
    "table": torch.randn(32, 16),
    "bias": torch.arange(3, dtype=torch.int32),
}


def write(folder: Path, tensors: dict[str, Tensor]) -> Path:
    file = folder / "x.safetensors"
    with StreamingFile(file, folder / "waiting", tensors) as streaming:
        for name, tensor in tensors.items():
            streaming.add(name, tensor)
        streaming.finish()
    return file


def offsets(file: Path) -> dict[str, int]:
    """Where each tensor begins in the file."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def test_the_library_reads_what_was_added(tmp_path: Path) -> None:
    read = load_file(write(tmp_path, TENSORS))
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 70), min_size=1, max_size=3)), max_size=12
    )
)
def test_any_tensors_come_back_aligned(tmp_path_factory: pytest.TempPathFactory, kinds: list) -> None:
    tensors = {f"t{i}": torch.ones(shape).to(DTYPES[kind]) for i, (kind, shape) in enumerate(kinds)}
    file = write(tmp_path_factory.mktemp("any"), tensors)
    read = load_file(file)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    for name, offset in offsets(file).items():
        assert offset % tensors[name].itemsize == 0
        if tensors[name].nbytes % 64 == 0:
            assert offset % 64 == 0


@pytest.mark.parametrize("kept", range(len(TENSORS) + 1))
def test_one_that_was_left_off_is_continued(tmp_path: Path, kept: int) -> None:
    """Whatever follows the tensors that count, here all the others, is overwritten: the bytes are the same."""
    whole = write(tmp_path, TENSORS).read_bytes()
    file = tmp_path / "again.safetensors"
    with StreamingFile(file, tmp_path / "waiting again", TENSORS) as streaming:
        written = [streaming.add(name, tensor) for name, tensor in TENSORS.items()]
    with StreamingFile(file, tmp_path / "waiting again", TENSORS, written[:kept]) as streaming:
        for name in list(TENSORS)[kept:]:
            streaming.add(name, TENSORS[name])
        streaming.finish()
        streaming.finish()
    assert file.read_bytes() == whole


def test_what_is_cut_is_not_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with StreamingFile(file, tmp_path / "waiting", TENSORS) as streaming:
        for name, tensor in TENSORS.items():
            streaming.add(name, tensor)
        streaming.cut(2)
        streaming.add("bias", TENSORS["bias"])
        streaming.finish()
    assert load_file(file).keys() == {"weight", "offset", "bias"}


def test_before_the_end_it_is_no_safetensors_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with StreamingFile(file, tmp_path / "waiting", TENSORS) as streaming:
        for name, tensor in TENSORS.items():
            streaming.add(name, tensor)
    with pytest.raises(SafetensorError):
        safe_open(file, "pt")


def test_a_file_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    written = [Written("weight", "I8", (2, 64)), Written("offset", "I8", (1,))]
    with pytest.raises(CheckpointError, match=r"x.safetensors: is shorter than .* start over with --restart"):
        StreamingFile(file, tmp_path / "waiting", TENSORS, written)


def test_more_tensors_than_were_named_find_no_room(tmp_path: Path) -> None:
    with StreamingFile(tmp_path / "x", tmp_path / "waiting", ["weight"]) as streaming:
        for name, tensor in TENSORS.items():
            streaming.add(name, tensor)
        with pytest.raises(ValueError, match="header has"):
            streaming.finish()
