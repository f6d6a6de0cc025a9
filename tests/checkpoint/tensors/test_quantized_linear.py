from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quantized_directories import random_linear
from tilepress.checkpoint.tensors.quantized_linear import pack, round_input_scale, unpack
from tilepress.errors import CheckpointError


def stored(dtype: str = "float16", **changes: Tensor) -> dict[str, Tensor]:
    packed = pack("p", random_linear(4, 6, scale=0.25, offset=3), dtype)
    return {name.removeprefix("p."): tensor for name, tensor in packed.items()} | changes


@pytest.mark.parametrize(("dtype", "deq"), [("float16", torch.int64), ("bfloat16", torch.float32)])
def test_both_flavours_keep_every_bit(dtype: str, deq: torch.dtype) -> None:
    linear = random_linear(4, 6, scale=0.25, offset=-128)
    packed = pack("p", linear, dtype)
    assert [t.dtype for t in packed.values()] == [torch.int8, getattr(torch, dtype), torch.int8, deq, torch.int32]
    back = unpack("p", {name.removeprefix("p."): tensor for name, tensor in packed.items()})
    assert (back.input_scale, back.input_offset) == (0.25, -128)
    for field in ("weight", "deq_scale", "quant_bias"):
        assert torch.equal(getattr(back, field), getattr(linear, field))


def test_deq_scale_is_the_bits_of_a_float32() -> None:
    linear = replace(random_linear(2, 6, scale=1.0, offset=0), deq_scale=torch.tensor([1.0, 0.5]))
    assert pack("p", linear, "float16")["p.deq_scale"].tolist() == [0x3F800000, 0x3F000000]


def test_rounding_the_input_scale() -> None:
    assert round_input_scale(0.1, "float16", "p") == 0.0999755859375
    assert round_input_scale(0.1, "bfloat16", "p") == 0.10009765625
    assert round_input_scale(1e-9, "bfloat16", "p") == pytest.approx(1e-9, rel=1e-2)


@pytest.mark.parametrize("scale", [0.0, 5e-8, 3e-5, 1e5, -0.1, float("nan"), float("inf")])
def test_input_scales_outside_float16_are_refused_by_name(scale: float) -> None:
    with pytest.raises(CheckpointError, match=r"p.input_scale is .*outside float16's normal range .*--dtype bfloat16"):
        round_input_scale(scale, "float16", "p.input_scale")
    with pytest.raises(CheckpointError, match=r"p.input_scale is"):
        pack("p", random_linear(2, 6, scale=scale, offset=0), "float16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_offsets_of_any_type_are_read(dtype: torch.dtype) -> None:
    assert unpack("p", stored(input_offset=torch.tensor([-8], dtype=dtype))).input_offset == -8


def test_float32_scales_are_read() -> None:
    assert unpack("p", stored(input_scale=torch.tensor([0.1]))).input_scale == float(torch.tensor(0.1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(4, 6)}, r"p.weight is float32 \[4, 6\]; it has to be int8 \[n, k\]"),
        ({"weight": torch.zeros(24, dtype=torch.int8)}, r"p.weight is int8 \[24\]"),
        ({"input_scale": torch.ones(2)}, r"p.input_scale is float32 \[2\]"),
        ({"input_scale": torch.ones(1, dtype=torch.int32)}, r"p.input_scale is int32 \[1\]"),
        ({"input_scale": torch.tensor([0.0])}, "p.input_scale is 0.0"),
        ({"input_scale": torch.tensor([3e-6], dtype=torch.float16)}, "p.input_scale is .* normal range"),
        ({"input_offset": torch.tensor([0.5])}, "p.input_offset is 0.5"),
        ({"input_offset": torch.tensor([128.0])}, "p.input_offset is 128.0"),
        ({"input_offset": torch.tensor([float("nan")])}, "p.input_offset is nan"),
        ({"deq_scale": torch.ones(5)}, r"p.deq_scale is float32 \[5\]; it has to be \[4\]"),
        ({"deq_scale": torch.ones(4, dtype=torch.float16)}, r"p.deq_scale is float16"),
        ({"deq_scale": torch.tensor([1, 2, 3, 1 << 31])}, "p.deq_scale holds a value outside"),
        ({"deq_scale": torch.tensor([1, 2, 3, -1])}, "p.deq_scale holds a value outside"),
        ({"deq_scale": torch.tensor([1, 2, 0x7F800000, 3])}, "p.deq_scale of channel 2 is inf"),
        ({"deq_scale": torch.tensor([1.0, float("nan"), 1, 1])}, "p.deq_scale of channel 1 is nan"),
        ({"deq_scale": torch.tensor([-1.0, 1, 1, 1])}, "p.deq_scale of channel 0 is -1.0"),
        ({"quant_bias": torch.zeros(4)}, "p.quant_bias is float32"),
        ({"quant_bias": torch.zeros(3, dtype=torch.int32)}, r"p.quant_bias is int32 \[3\]"),
    ],
)
def test_tensors_that_are_not_the_formats_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        unpack("p", stored(**changes))


def test_what_cannot_be_stored_is_refused() -> None:
    linear = random_linear(4, 6, scale=0.25, offset=0)
    with pytest.raises(CheckpointError, match=r"p.input_offset is 128; it has to be from -128 to 127"):
        pack("p", replace(linear, input_offset=128), "float16")
    with pytest.raises(CheckpointError, match=r"p.deq_scale of channel 0 is inf"):
        pack("p", replace(linear, deq_scale=linear.deq_scale / 0), "bfloat16")
