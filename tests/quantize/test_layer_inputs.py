"""What the layers read, in memory or in a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from tilepress.errors import QuantizationError
from tilepress.quantize.layer_inputs import layer_inputs


def test_beyond_the_memory_they_are_in_a_file_that_nobody_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    states = torch.randn(3, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    for memory in (states.nbytes, states.nbytes - 1):
        kept = layer_inputs(3, states.shape[1:], memory)
        for index in range(3):
            kept[index] = states[index]
        assert torch.equal(kept, states)
        assert list(tmp_path.iterdir()) == []
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        assert (str(tmp_path) in maps) == (memory < states.nbytes)
        del kept


def test_a_disk_without_room_is_refused_before_work_begins() -> None:
    with pytest.raises(QuantizationError, match=r"4000000000\.0 GB needed.*set TMPDIR"):
        layer_inputs(10**6, (10**6, 10**6), 0)
