"""From a float directory to a W8A8S directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tilepress.checkpoint import FloatCheckpoint, QuantizedLinear, W8A8SCheckpoint
from tilepress.errors import CheckpointError, QuantizationError, TilepressError, UsageError
from tilepress.models.layer_inputs import GATE_UP, LINEARS, QKV
from tilepress.quantize import Progress, Recipe, quantize_checkpoint
from tilepress.quantize.rounding.layer import pack
from tilepress.quantize.transforms.activation_ranges import ActivationRange
from tiny_models import make_tiny_llama, make_tiny_mistral, make_tiny_qwen2, make_tiny_qwen3

QUICK = Recipe(samples=6, sequence_length=64)
MAKERS = {
    "qwen3": make_tiny_qwen3,
    "qwen2": make_tiny_qwen2,
    "llama": make_tiny_llama,
    "mistral": make_tiny_mistral,
}


def apply(linear: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
    integers = (torch.round(x / linear.input_scale) + linear.input_offset).clamp(-128, 127)
    return (integers @ linear.weight.float().T + linear.quant_bias) * linear.deq_scale


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_makes_a_whole_directory_that_computes_nearly_the_same(
    name: str, dtype: str, calibration: Path, tmp_path: Path
) -> None:
    stored = torch.bfloat16 if dtype == "bfloat16" else torch.float16
    source = FloatCheckpoint(MAKERS[name](tmp_path / "float", heads=4, kv_heads=2, dtype=stored))
    recipe = Recipe(samples=6, sequence_length=64, dtype=dtype, bits=5.0)

    report = quantize_checkpoint(source, tmp_path / "out", recipe, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    assert made.dtype == dtype
    assert [linear.name for linear in report.linears] == [
        f"model.layers.{i}.{name}" for i in range(2) for name in LINEARS
    ]
    for prefix in (linear.name for linear in report.linears):
        assert made.is_quantized(prefix)
    assert report.bits == pytest.approx(5.0, abs=0.4)
    assert report.zeros > 0.02
    # Two layers of random weights: errors of single linears, which the folds leave comparable.
    assert all(linear.relative_error < 0.02 for linear in report.linears), report.linears


def test_attention_norms_and_embeddings_are_kept_as_they_are(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    quantize_checkpoint(source, tmp_path / "out", QUICK, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.1.self_attn.q_norm.weight",
    ):
        assert torch.equal(made.float_tensor(name), source.tensor(name)), name


def test_linears_that_read_one_input_share_its_range(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", QUICK, calibration=calibration)

    made = W8A8SCheckpoint(tmp_path / "out")
    for names in (QKV.consumers, GATE_UP.consumers):
        linears = [made.linear(f"model.layers.0.{name}") for name in names]
        assert len({(linear.input_scale, linear.input_offset) for linear in linears}) == 1


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(
    tiny_qwen3: Path, calibration: Path, tmp_path: Path
) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        quantize_checkpoint(
            source, tmp_path / out, Recipe(samples=4, sequence_length=64, seed=seed), calibration=calibration
        )

    a, b, c = ((tmp_path / out / "quant_model_weight_w8a8s.safetensors").read_bytes() for out in "abc")
    assert a == b
    assert a != c


def test_fewer_bits_are_fewer_bits_with_more_zeros(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    source = FloatCheckpoint(tiny_qwen3)
    low = quantize_checkpoint(
        source, tmp_path / "low", Recipe(bits=2.5, samples=4, sequence_length=64), calibration=calibration
    )
    high = quantize_checkpoint(
        source, tmp_path / "high", Recipe(bits=5.0, samples=4, sequence_length=64), calibration=calibration
    )

    assert low.bits < high.bits - 2.0
    assert low.zeros > high.zeros


def test_without_a_file_it_calibrates_on_text_that_comes_with_python(tiny_qwen3: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(FloatCheckpoint(tiny_qwen3), tmp_path / "out", QUICK)

    assert report.calibration_tokens == 6 * 64


def test_progress_is_told_after_each_visit_to_a_layer(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    quantize_checkpoint(
        FloatCheckpoint(tiny_qwen3), tmp_path / "out", QUICK, calibration=calibration, progress=told.append
    )

    assert [p.done for p in told] == [1, 2, 3, 4, 5, 6]
    assert {p.total for p in told} == {6}
    assert told[-1].seconds_left == 0.0


def test_the_report_is_plain_data(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(
        FloatCheckpoint(tiny_qwen3), tmp_path / "out", QUICK, calibration=calibration
    ).as_dict()

    assert report["bits"] == pytest.approx(4.0, abs=0.4)
    assert report["linears"][0]["name"] == "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("broken", ["calibration", "existing"])
def test_nothing_is_left_where_it_fails(broken: str, tiny_qwen3: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "calibration.txt"
    calibration.write_text("too short", encoding="utf-8")
    out = tmp_path / "out"
    if broken == "existing":
        out.mkdir()

    with pytest.raises(TilepressError) as refusal:
        quantize_checkpoint(FloatCheckpoint(tiny_qwen3), out, QUICK, calibration=calibration)

    assert isinstance(refusal.value, QuantizationError if broken == "calibration" else CheckpointError)
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["calibration.txt", "out"] if broken == "existing" else ["calibration.txt"]
    )


def test_packing_keeps_bias_and_zero_point() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(-127, 128, (5, 16), generator=generator).to(torch.int8)
    steps, bias = torch.linspace(0.01, 0.05, 5), torch.randn(5, generator=generator)
    inputs = ActivationRange(scale=0.03125, offset=-37)
    x = 0.03125 * torch.randint(-90, 164, (4, 16), generator=generator)

    y = apply(pack(q, steps, inputs, bias, "here"), x)

    exact = x @ (q * steps[:, None]).T + bias
    assert ((y - exact).abs() <= 0.51 * inputs.scale * steps).all()


def test_a_bias_out_of_int32_is_refused_by_name() -> None:
    q = torch.ones(2, 4, dtype=torch.int8)
    with pytest.raises(QuantizationError, match=r"layers\.0\.self_attn\.q_proj: quant_bias"):
        pack(
            q,
            torch.full((2,), 1e-6),
            ActivationRange(1e-4, 0),
            torch.tensor([0.0, 5.0]),
            "model.layers.0.self_attn.q_proj",
        )


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 0.5},
        {"bits": 8.0},
        {"bits": float("nan")},
        {"size": 0},
        {"loss": 0.0},
        {"loss": float("nan")},
        {"dtype": "float32"},
        {"samples": 0},
        {"sequence_length": 4},
        {"damping": 0.0},
    ],
)
def test_a_recipe_out_of_range_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Recipe(**options)  # type: ignore[arg-type]
