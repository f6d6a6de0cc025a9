"""Several ranks make what one process makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distributed.thread_ranks import on_ranks
from quantize.rounding.rounding_cases import rounding_case
from tilepress.checkpoint import FloatCheckpoint
from tilepress.distributed.communicator import ALONE, Communicator, share
from tilepress.errors import QuantizationError
from tilepress.quantize import Recipe, quantize_checkpoint
from tilepress.quantize.rounding.gptq import RoundedRows, round_rows
from tilepress.quantize.transforms.activation_ranges import ActivationRange
from tiny_models import make_tiny_qwen3

WHOLE = {"head": True, "embeddings": True, "sequence_length": 64}


def quantized(
    source: Path, out: Path, calibration: Path, ranks: Communicator, **options: object
) -> dict[str, torch.Tensor]:
    recipe = Recipe(**WHOLE | options)  # type: ignore[arg-type]
    quantize_checkpoint(FloatCheckpoint(source), out, recipe, calibration=calibration, ranks=ranks)
    return load_file(out / "quant_model_weight_w8a8s.safetensors") if ranks.writes else {}


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_whole_units_and_all_there_is(world: int) -> None:
    for count, unit in ((10, 1), (10, 4), (2, 1), (300, 128)):
        parts = [share(rank, world, count, unit) for rank in range(world)]
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
        assert all(part.start % unit == 0 for part in parts if part.start < part.stop)


@pytest.mark.parametrize(("world", "n"), [(2, 300), (3, 1000), (5, 130)])
def test_rows_are_rounded_alike_by_any_number_of_ranks(world: int, n: int) -> None:
    weight, steps, factor, _, lengths = rounding_case(n, 64, seed=0)
    tokens = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))

    def rounded(ranks: Communicator) -> RoundedRows:
        inputs = ActivationRange(scale=0.03, offset=2)
        return round_rows(lambda rows: weight[rows], steps, lengths, factor, inputs, tokens, ranks, sweeps=3)

    alone = rounded(ALONE)

    for found in on_ranks(world, rounded):
        assert torch.equal(found.integers, alone.integers)
        torch.testing.assert_close(found.error, alone.error)
        torch.testing.assert_close(found.norm, alone.norm)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_one_sequence_a_rank_gives_the_same_bits(tied: bool, calibration: Path, tmp_path: Path) -> None:
    """The first sum of two is the same in one process and in two."""
    source = make_tiny_qwen3(tmp_path / "float", tied=tied)
    options = {"samples": 2, "distill_steps": 2}
    alone = quantized(source, tmp_path / "alone", calibration, ALONE, **options)

    both, nothing = on_ranks(2, lambda ranks: quantized(source, tmp_path / "both", calibration, ranks, **options))

    assert alone.keys() == both.keys()
    assert all(torch.equal(alone[name], both[name]) for name in alone)
    assert nothing == {}


@pytest.mark.parametrize("world", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_the_order_of_sums_is_all_that_differs(world: int, calibration: Path, tmp_path: Path) -> None:
    """Six sequences: two a rank, or two ranks without any."""
    source = make_tiny_qwen3(tmp_path / "float")
    options = {"samples": 6, "distill_steps": 0}
    alone = quantized(source, tmp_path / "alone", calibration, ALONE, **options)

    many, *_ = on_ranks(world, lambda ranks: quantized(source, tmp_path / "many", calibration, ranks, **options))

    assert alone.keys() == many.keys()
    integers = [name for name, tensor in alone.items() if tensor.dtype == torch.int8 and tensor.dim() == 2]
    assert len(integers) == 2 * 7 + 2
    for name in integers:
        # A decision on the edge moves what comes after it in its block of 128 rows: here that is a whole matrix.
        assert (alone[name] != many[name]).float().mean() < 0.1, name


def test_all_ranks_end_where_the_first_one_fails(tiny_qwen3: Path, tmp_path: Path) -> None:
    text = tmp_path / "calibration.txt"
    text.write_text("too short", encoding="utf-8")

    with pytest.raises(QuantizationError, match="tokens"):
        on_ranks(2, lambda ranks: quantized(tiny_qwen3, tmp_path / "out", text, ranks))

    assert list(tmp_path.iterdir()) == [text]
