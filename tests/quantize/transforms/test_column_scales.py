"""Column scales, and the statistics of the inputs that they level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tilepress.checkpoint import FloatCheckpoint
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC, MODES, OVERFLOW, STATIC
from tilepress.models.layer_inputs import FEEDS
from tilepress.quantize.layerwise.decoder import LayerwiseDecoder
from tilepress.quantize.statistics.input_statistics import StatisticsCollector
from tilepress.quantize.transforms.column_scales import (
    REACH,
    column_scales,
    representable_scales,
    share_over_query_heads,
)
from tilepress.quantize.transforms.folding import fold, mix_scales
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3


@pytest.mark.parametrize("make", [make_tiny_qwen3, make_tiny_qwen2, make_tiny_llama])
@pytest.mark.parametrize("activations", MODES)
def test_the_statistics_of_scaled_inputs_are_foretold(
    make: Callable[..., Path], activations: str, tmp_path: Path
) -> None:
    source = FloatCheckpoint(make(tmp_path / "model", heads=4, kv_heads=2))
    heads = {"heads": source.shape.heads, "kv_heads": source.shape.kv_heads}
    decoder = LayerwiseDecoder(source, torch.device("cpu"))
    arguments = decoder.layer_arguments(24)[0]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 24, source.shape.hidden, generator=generator)
    hidden[:, 0, 5] *= 50.0  # a massive activation
    with decoder.layer(0) as layer, torch.no_grad():
        with StatisticsCollector(layer, 8, generator) as collector:
            layer(hidden, **arguments)
        statistics = collector.result()
        scales = mix_scales(statistics, 0.01, "here", **heads, activations=activations)
        folded = fold(layer.state_dict(), statistics, scales, torch.float16, **heads)
        layer.load_state_dict(folded.tensors)
        with StatisticsCollector(layer, 8, torch.Generator().manual_seed(0)) as collector:
            layer(hidden, **arguments)

    assert set(scales) == {feed.name for feed in FEEDS}
    for input_name, seen in collector.result().items():
        foretold = folded.statistics[input_name]
        torch.testing.assert_close(seen.hessian, foretold.hessian, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(seen.largest(), foretold.largest(), rtol=1e-3, atol=1e-4)


COST = torch.tensor([16.0, 1.0, 1.0, 1.0, 4.0])
LARGEST = torch.tensor([4.0, 1.2, 3000.0, 1.0, 2.0])


def test_without_a_range_an_error_costs_the_same_in_all_columns() -> None:
    scales = column_scales(COST, LARGEST, DYNAMIC)

    torch.testing.assert_close(COST / scales.square(), torch.full((5,), float(COST.log().mean().exp())))


def test_where_tokens_are_clipped_columns_that_reach_far_are_brought_near_the_median() -> None:
    free, scales = (column_scales(COST, LARGEST, mode) for mode in (DYNAMIC, STATIC))

    assert torch.equal(scales[[0, 1, 3, 4]], free[[0, 1, 3, 4]])
    assert (LARGEST / scales)[2] == pytest.approx(REACH * float((LARGEST / free).median()))


def test_where_tokens_overflow_scales_are_the_geometric_mean_of_both_needs() -> None:
    scales = column_scales(torch.tensor([16.0, 1.0, 1.0]), torch.tensor([1.0, 4.0, 1.0]), OVERFLOW)

    torch.testing.assert_close(scales, torch.tensor([2.0, 2.0, 1.0]) / 4 ** (1 / 3))


@pytest.mark.parametrize("mode", [DYNAMIC, OVERFLOW, STATIC])
def test_a_column_that_is_always_zero_keeps_its_scale(mode: str) -> None:
    scales = column_scales(torch.tensor([1e-3, 2.0, 1.0]), torch.tensor([0.0, 1.4, 1.0]), mode)

    assert scales[0] == 1.0
    assert scales[1] * scales[2] == pytest.approx(1.0)


def test_query_heads_of_one_kv_head_share_their_largest_scale() -> None:
    scales = torch.tensor([1.0, 5.0, 3.0, 2.0, 1.0, 1.0, 7.0, 1.0])  # 4 query heads of 2, 2 kv heads

    shared = share_over_query_heads(scales, heads=4, kv_heads=2)

    assert shared.tolist() == [3.0, 5.0, 3.0, 5.0, 7.0, 1.0, 7.0, 1.0]


def test_the_applied_scale_is_what_the_stored_gain_really_divides_by() -> None:
    gain = torch.tensor([1.0, -0.3, 0.0, 6e4])
    folded, applied = representable_scales(gain, torch.tensor([0.7, 3.0, 2.0, 0.1]), torch.float16)

    assert torch.equal(folded, folded.half().float())
    torch.testing.assert_close(folded * applied, gain)
    assert applied[2] == 1.0  # nothing to fold into
    assert applied[3] == pytest.approx(1.0, rel=1e-3)  # 6e5 is no float16
