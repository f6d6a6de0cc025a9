"""Fused linears: one computation for q, k and v, nothing held afterwards, no silent mix-up."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from tilepress.checkpoint import CompressedLinear as StoredLinear
from tilepress.checkpoint import W8A8SCheckpoint
from tilepress.codec import decode
from tilepress.engines.transformers.compressed_linear import CompressedLinear, FusedLinear, FusedMember

SIZES = [128, 64, 64]
NAMES = ["q_proj", "k_proj", "v_proj"]


@pytest.fixture
def stored(tiny_w8a8s: Path) -> StoredLinear:
    return W8A8SCheckpoint(tiny_w8a8s).compressed_linear("model.layers.0.self_attn.query_key_value")


@pytest.fixture
def fused(stored: StoredLinear) -> FusedLinear:
    return FusedLinear(stored, SIZES, NAMES)


def inputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(seed))


def call_all(members: list[FusedMember], x: torch.Tensor) -> list[torch.Tensor]:
    return [member(x) for member in members]


def test_the_linear_follows_the_definition(stored: StoredLinear) -> None:
    x = inputs()
    x_q = (torch.round(x / torch.tensor(stored.input_scale)) + stored.input_offset).clamp(-128, 127).int()
    weight = torch.from_numpy(decode(stored.weight)).int()
    expected = (x_q @ weight.T + stored.quant_bias).float() * stored.deq_scale
    assert torch.equal(CompressedLinear(stored)(x), expected)


def test_members_are_slices_of_the_fused_output(fused: FusedLinear) -> None:
    members = fused.members()
    for seed in (0, 1):
        x = inputs(seed)
        assert torch.equal(torch.cat(call_all(members, x), dim=-1), fused(x))


def test_the_fused_linear_is_computed_once_an_input(fused: FusedLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = fused.forward
    monkeypatch.setattr(fused, "forward", lambda x: (calls.append(x), forward(x))[1])
    members = fused.members()
    call_all(members, inputs(0))
    call_all(members, inputs(1))
    assert len(calls) == 2


def test_nothing_is_held_after_the_last_member(fused: FusedLinear) -> None:
    x = inputs()
    outputs = call_all(fused.members(), x)
    references = [weakref.ref(tensor) for tensor in (x, *outputs)]
    del x, outputs
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_calls_out_of_order_fail_instead_of_mixing_inputs(fused: FusedLinear) -> None:
    q, k, v = fused.members()
    with pytest.raises(RuntimeError, match="k_proj was called out of order"):
        k(inputs())
    x = inputs()
    q(x)
    with pytest.raises(RuntimeError, match="v_proj was called out of order"):
        v(x)
    q(x)
    with pytest.raises(RuntimeError, match="each with the same input tensor"):
        k(x.clone())
    call_all([q, k, v], x)
    with pytest.raises(RuntimeError, match="v_proj"):
        v(x)


def test_a_call_cut_short_does_no_harm(fused: FusedLinear) -> None:
    members = fused.members()
    members[0](inputs(0))  # an interrupt came before k and v
    x = inputs(1)
    assert torch.equal(torch.cat(call_all(members, x), dim=-1), fused(x))


def test_members_own_no_tensors_and_the_fused_linear_is_listed_once(fused: FusedLinear) -> None:
    block = nn.Module()
    block.query_key_value = fused
    block.q_proj, block.k_proj, block.v_proj = fused.members()
    names = [name for name, _ in block.named_buffers()]
    assert len(names) == 7
    assert all(name.startswith("query_key_value.") for name in names)
    assert sorted(block.state_dict()) == sorted(names)


def test_scales_keep_their_type(stored: StoredLinear) -> None:
    """Where model.half() converts everything."""
    linear, x = CompressedLinear(stored), inputs().half()
    expected = linear(x)
    assert torch.equal(linear.half()(x), expected)
    assert linear.deq_scale.dtype == torch.float32
