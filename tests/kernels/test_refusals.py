"""Tensors that do not fit, and damaged bytes: errors, never crashes."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

from int8_matrices import DISTRIBUTIONS, make_matrix
from kernels.linears import make_linear, tokens
from tilepress import kernels
from tilepress.errors import BitstreamError
from tilepress.kernels.op import linear_from_python


@pytest.fixture(params=[kernels.linear, linear_from_python], ids=["native", "from Python"])
def linear(request):
    return dataclasses.replace(make_linear(make_matrix("gaussian", 150, 270)), call=request.param)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(64, dtype=torch.uint8)}, "weight is torch.uint8"),
        ({"index": torch.zeros(1, 32, dtype=torch.int16)}, "index is torch.int16"),
        ({"info": torch.zeros(4, dtype=torch.int64)}, r"info is torch.int64 \[4\]"),
        ({"input_scale": torch.ones(2)}, r"input_scale is torch.float32 \[2\]"),
        ({"input_offset": torch.zeros(1, dtype=torch.int8)}, "input_offset is torch.int8"),
        ({"input_offset": torch.tensor([128], dtype=torch.int32)}, "input_offset is 128"),
        ({"deq_scale": torch.ones(150, dtype=torch.float64)}, "deq_scale is torch.float64"),
        ({"deq_scale": torch.ones(300)[::2]}, r"strides \[2\]"),
        ({"quant_bias": torch.zeros(149, dtype=torch.int32)}, r"quant_bias is torch.int32 \[149\]"),
        ({"deq_scale": torch.ones(9), "quant_bias": torch.zeros(9, dtype=torch.int32)}, "150 x 270.*9 entries"),
    ],
)
def test_tensors_that_do_not_fit(linear, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(linear, **change)(tokens((2, 270)))


def test_activations_that_do_not_fit(linear):
    with pytest.raises(ValueError, match=r"x is torch\.float64"):
        linear(tokens((2, 270), torch.float64))
    with pytest.raises(ValueError, match=r"150 x 270, but x has 271 columns"):
        linear(tokens((2, 271)))
    with pytest.raises(ValueError, match=r"x is torch.float32 \[\]"):
        linear(torch.tensor(1.0))
    with pytest.raises(ValueError, match="x has 0 columns"):
        linear(torch.empty(3, 0))


def test_foreign_bitstream(linear):
    info = linear.info.clone()
    info[4] = 1
    with pytest.raises(BitstreamError, match=r"info\[4\] is 1"):
        dataclasses.replace(linear, info=info)(tokens((2, 270)))


def test_index_of_another_matrix(linear):
    with pytest.raises(BitstreamError, match="index has 8 bytes"):
        dataclasses.replace(linear, index=linear.index[:8])(tokens((2, 270)))


def test_truncated_weight(linear):
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): the tile reaches past the end"):
        dataclasses.replace(linear, weight=linear.weight[:-64])(tokens((2, 270)))


def test_a_tile_that_does_not_end_where_the_next_begins(linear):
    longer = torch.cat([linear.weight, torch.zeros(64, dtype=torch.int8)])
    with pytest.raises(BitstreamError, match=r"tile \(1, 1\): the tile does not end where the next one begins"):
        dataclasses.replace(linear, weight=longer)(tokens((2, 270)))


def test_the_first_damaged_tile_is_named(linear):
    """All level-0 codes become escapes in two tiles; the message is the same whichever thread is first."""
    offsets = linear.index.numpy().view(np.uint64) & np.uint64(0xFFFFFFFFFFFF)
    weight = linear.weight.clone()
    for tile in (1, 3):
        weight[int(offsets[tile]) :][:64] = -1
    damaged = dataclasses.replace(linear, weight=weight)
    for batch in (1, 40):
        with pytest.raises(BitstreamError, match=r"tile \(0, 1\): the escapes of level 0"):
            damaged(tokens((batch, 270)))


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_random_damage_never_crashes(kind):
    sound = make_linear(make_matrix(kind, 150, 270))
    rng = np.random.default_rng(0)
    x = tokens((2, 270))
    for _ in range(60):
        parts = {name: getattr(sound, name).clone() for name in ("weight", "index", "info")}
        part = parts[rng.choice(["weight", "weight", "index", "info"])].view(torch.int8)
        for _ in range(rng.integers(1, 6)):
            part[int(rng.integers(len(part)))] ^= 1 << int(rng.integers(7))
        try:
            y = dataclasses.replace(sound, **parts)(x)
        except (BitstreamError, ValueError):
            continue
        assert y.shape == (2, 150)


@pytest.mark.parametrize("seed", range(10))
def test_noise_never_crashes(seed):
    sound = make_linear(make_matrix(sorted(DISTRIBUTIONS)[seed % len(DISTRIBUTIONS)], 150, 270))
    noise = torch.randint(
        -128, 128, sound.weight.shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed)
    )
    with contextlib.suppress(BitstreamError):
        assert dataclasses.replace(sound, weight=noise)(tokens((2, 270))).shape == (2, 150)
