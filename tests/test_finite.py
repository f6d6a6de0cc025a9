"""A value that is not finite is found wherever it is."""

from __future__ import annotations

import pytest
import torch

from tilepress.finite import is_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_among_many(value: float, dtype: torch.dtype) -> None:
    tensor = torch.randn(37, 129, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert is_finite(tensor)
    for place in (0, 1, 63, 64, 2000, tensor.numel() - 1):
        damaged = tensor.clone()
        damaged.view(-1)[place] = value
        assert not is_finite(damaged), place
        assert not is_finite(damaged.T), place


def test_nothing_is_finite() -> None:
    assert is_finite(torch.empty(0, 4))
