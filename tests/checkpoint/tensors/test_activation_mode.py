"""What a directory says of tokens that leave the static ranges, and the sums over rows that such tokens need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantized_directories import edit_json, edit_tensors, same_tensors, stored_tensors
from quantized_models import make_w8a8s
from tilepress import codec
from tilepress.checkpoint import W8A8SCCheckpoint, W8A8SCheckpoint, open_checkpoint, summarize
from tilepress.compress import compress_directory, decompress_directory, verify
from tilepress.errors import CheckpointError
from tilepress.kernels import reference

DESCRIPTION, WEIGHTS = "quant_model_description.json", "quant_model_weight_w8a8sc.safetensors"
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
QKV = "model.layers.0.self_attn.query_key_value"
MODES = ["overflow", "static", "per-token", "dynamic"]


@pytest.fixture(scope="module", params=MODES)
def of_each_mode(request: pytest.FixtureRequest, tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8S directory made for one of the modes."""
    out = tmp_path_factory.mktemp("activations") / request.param
    return make_w8a8s(tiny_qwen3, out, levels=7, head=True, activations=request.param)


@pytest.fixture(scope="module")
def overflow(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W8A8SC directory of two parts, made for overflow."""
    folder = tmp_path_factory.mktemp("overflow")
    source = make_w8a8s(tiny_qwen3, folder / "w8a8s", levels=7, activations="overflow")
    compress_directory(source, folder / "w8a8sc", tp=2)
    return folder / "w8a8sc"


@pytest.fixture
def overflow_copy(overflow: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(overflow, tmp_path / "copy"))


def sums_that_are_needed(mode: str, prefix: str) -> bool:
    return mode in ("overflow", "dynamic") or (mode == "per-token" and prefix.endswith("down_proj"))


def test_a_directory_that_does_not_say_it_is_static(w8a8s: Path, w8a8sc: Path) -> None:
    for directory in (w8a8s, w8a8sc):
        checkpoint = open_checkpoint(directory)
        assert checkpoint.activations == "static"
        assert checkpoint.compressed_linear(DOWN).weight_sums is None


@pytest.mark.parametrize("mode", ["exact", None, ["overflow"]])
def test_any_other_mode_is_refused(w8a8s_copy: Path, mode: object) -> None:
    edit_json(w8a8s_copy / DESCRIPTION, lambda description: description.update(activations=mode))
    with pytest.raises(
        CheckpointError, match=rf"{DESCRIPTION}: activations is .*; it has to be overflow, static, per-"
    ):
        open_checkpoint(w8a8s_copy)


def test_so_it_is_in_a_part(w8a8sc_copy: Path) -> None:
    edit_json(w8a8sc_copy / "part1-of-2" / DESCRIPTION, lambda description: description.update(activations="exact"))
    with pytest.raises(CheckpointError, match=rf"part1-of-2/{DESCRIPTION}: activations is 'exact'; it has to be"):
        open_checkpoint(w8a8sc_copy)


@pytest.mark.parametrize("tp", [1, 2, 8])  # kv_heads=4: of eight ranks two hold each kv head
def test_parts_hold_the_sums_over_their_own_columns(of_each_mode: Path, tp: int, tmp_path: Path) -> None:
    mode = W8A8SCheckpoint(of_each_mode).activations
    compress_directory(of_each_mode, tmp_path / "c", tp=tp)
    for rank, part in enumerate(W8A8SCCheckpoint(tmp_path / "c").parts):
        stored = load_file(tmp_path / "c" / f"part{rank}-of-{tp}" / WEIGHTS)
        types = json.loads((tmp_path / "c" / f"part{rank}-of-{tp}" / DESCRIPTION).read_text())
        assert types["activations"] == mode
        for prefix in W8A8SCCheckpoint(tmp_path / "c").fused_groups():
            assert (f"{prefix}.weight_sums" in stored) == sums_that_are_needed(mode, prefix)
            if f"{prefix}.weight_sums" in stored:
                decoded = torch.from_numpy(codec.decode(part.compressed_linear(prefix).weight))
                expected = decoded.sum(1).to(torch.int32)
                assert stored[f"{prefix}.weight_sums"].dtype == torch.int32
                assert torch.equal(stored[f"{prefix}.weight_sums"], expected)
                kind = "W8A8S_DYNAMIC" if mode in ("per-token", "dynamic") else "W8A8S"
                assert {types[f"{prefix}.{name}"] for name in ("weight_sums", "deq_scale", "input_scale")} == {kind}


def test_joined_they_are_those_of_the_whole_linear(of_each_mode: Path, tmp_path: Path) -> None:
    plain = W8A8SCheckpoint(of_each_mode)
    for tp in (1, 2, 8):
        compress_directory(of_each_mode, tmp_path / f"c{tp}", tp=tp)
        joined = W8A8SCCheckpoint(tmp_path / f"c{tp}")
        for prefix in plain.fused_groups():
            linears = [checkpoint.compressed_linear(prefix) for checkpoint in (plain, joined)]
            assert linears[0].kind == linears[1].kind
            if sums_that_are_needed(plain.activations, prefix):
                expected = torch.from_numpy(codec.decode(linears[0].weight)).sum(1).to(torch.int32)
                for linear in linears:
                    assert linear.weight_sums is not None
                    assert torch.equal(linear.weight_sums, expected)
            else:
                assert linears[0].weight_sums is linears[1].weight_sums is None


@pytest.mark.parametrize("tp", [1, 4])
def test_decompression_gives_back_every_bit(of_each_mode: Path, tp: int, tmp_path: Path) -> None:
    compress_directory(of_each_mode, tmp_path / "c", tp=tp)
    decompress_directory(tmp_path / "c", tmp_path / "back")
    assert same_tensors(stored_tensors(of_each_mode), stored_tensors(tmp_path / "back"))
    descriptions = [json.loads((path / DESCRIPTION).read_text()) for path in (of_each_mode, tmp_path / "back")]
    assert descriptions[0] == descriptions[1]
    assert verify(of_each_mode, tmp_path / "c").same


def test_the_ranks_add_up_where_one_overflows(overflow: Path) -> None:
    """Each rank decides by its own columns; bias and zero point are counted once either way."""
    parts = [part.compressed_linear(DOWN) for part in W8A8SCCheckpoint(overflow).parts]
    x = 0.2 * torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    x[::2, 3] = 40.0  # beyond the range, in columns of rank 0 alone
    total, exact = torch.zeros(6, 64), torch.zeros(6, 64)
    for share, columns in zip(parts, x.split(64, dim=1), strict=True):
        scale, offset = torch.tensor(share.input_scale), torch.tensor(share.input_offset)
        matrix = torch.from_numpy(codec.decode(share.weight))
        assert share.weight_sums is not None
        scales = (scale, offset, share.deq_scale, share.quant_bias, share.weight_sums)
        total += reference.linear(columns, matrix, *scales)
        exact += columns @ (matrix * (share.deq_scale / scale)[:, None]).T
        exact += (share.quant_bias + offset * share.weight_sums) * share.deq_scale
    assert ((total - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.05


def test_linears_that_are_always_quantized_by_token_have_a_type_of_their_own(tiny_qwen3: Path, tmp_path: Path) -> None:
    checkpoint = W8A8SCheckpoint(make_w8a8s(tiny_qwen3, tmp_path / "q", activations="per-token"))
    assert checkpoint.description.types[f"{DOWN}.weight"] == "W8A8S_DYNAMIC"
    assert (checkpoint.linear(DOWN).kind, checkpoint.linear(Q).kind) == ("W8A8S_DYNAMIC", "W8A8S")
    assert checkpoint.is_quantized(DOWN)
    edit_json(tmp_path / "q" / "config.json", lambda config: config.update(torch_dtype=None, dtype=None))
    assert W8A8SCheckpoint(tmp_path / "q").dtype == "float16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{DOWN}.quant_bias": "W8A8S"}, rf"{DOWN}.quant_bias is W8A8S; it has to be W8A8S_DYNAMIC"),
        ({f"{DOWN}.weight": "W8A8S"}, rf"{DOWN}.input_scale is W8A8S_DYNAMIC; it has to be W8A8S or W8A8SC"),
        (
            {f"{Q}.{name}": "W8A8S_DYNAMIC" for name in ("weight", "input_scale", "input_offset")}
            | {f"{Q}.{name}": "W8A8S_DYNAMIC" for name in ("deq_scale", "quant_bias")},
            rf"{Q}.weight is W8A8S_DYNAMIC and .*k_proj.weight is W8A8S; .* of one type",
        ),
        ({"model.norm.weight": "W8A8S_DYNAMIC"}, r"model.norm.weight is W8A8S_DYNAMIC; it has to be FLOAT"),
        ({"model.embed_tokens.weight": "W8A8S_DYNAMIC"}, r"embed_tokens.weight is W8A8S_DYNAMIC; it has to be FLOAT"),
    ],
)
def test_types_that_do_not_go_together_are_refused(
    tiny_qwen3: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    directory = make_w8a8s(tiny_qwen3, tmp_path / "q", activations="per-token")
    edit_json(directory / DESCRIPTION, lambda description: description.update(change))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sums: None, rf"tensor {QKV}.weight_sums is missing"),
        (lambda sums: sums[:9], rf"{QKV}.weight_sums is int32 \[9\]; .* int32 \[128\]"),
        (lambda sums: sums.long(), rf"{QKV}.weight_sums is int64 \[128\]"),
    ],
)
def test_sums_that_do_not_fit_are_refused(
    overflow_copy: Path, change: Callable[[torch.Tensor], torch.Tensor | None], message: str
) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        changed = change(tensors.pop(f"{QKV}.weight_sums"))
        if changed is not None:
            tensors[f"{QKV}.weight_sums"] = changed.clone()

    edit_tensors(overflow_copy / "part1-of-2" / WEIGHTS, edit)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(overflow_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{QKV}.weight_sums": "FLOAT"}, rf"{QKV}.weight_sums is FLOAT; it has to be W8A8S"),
        ({f"{QKV}.input_scale": "W8A8S_DYNAMIC"}, rf"{QKV}.input_offset is W8A8S; it has to be W8A8S_DYNAMIC"),
        ({"activations": "static"}, r"mlp.down_proj.weight_sums is not a tensor of a W8A8SC part"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(overflow_copy: Path, change: dict[str, str], message: str) -> None:
    edit_json(overflow_copy / "part0-of-2" / DESCRIPTION, lambda description: description.update(change))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(overflow_copy)


def test_parts_have_to_be_made_for_the_same(w8a8sc_copy: Path) -> None:
    """Of a static and a per-token directory without linears of that type the tensors are alike."""
    edit_json(w8a8sc_copy / "part1-of-2" / DESCRIPTION, lambda types: types.update(activations="per-token"))
    with pytest.raises(CheckpointError, match=r"part1-of-2: activations is 'per-token', but 'static' in part0-of-2"):
        open_checkpoint(w8a8sc_copy)


def test_sums_of_other_weights_are_found_where_these_are_decoded(
    overflow: Path, overflow_copy: Path, tmp_path: Path
) -> None:
    edit_tensors(overflow_copy / "part1-of-2" / WEIGHTS, lambda tensors: tensors[f"{QKV}.weight_sums"][5].add_(1))
    source = overflow.with_name("w8a8s")
    decompress = lambda: decompress_directory(overflow_copy, tmp_path / "back")  # noqa: E731
    for use in (decompress, lambda: verify(source, overflow_copy)):
        with pytest.raises(CheckpointError, match=rf"{QKV}.weight_sums are not the sums .* compress the model again"):
            use()


def test_directories_of_different_modes_are_not_the_same(w8a8s: Path, overflow: Path) -> None:
    with pytest.raises(CheckpointError, match=r"was made for overflow activations, .* for static; compress again"):
        verify(w8a8s, overflow)


def test_the_summary_tells_the_mode(of_each_mode: Path, tiny_qwen3: Path, w8a8sc: Path) -> None:
    mode = W8A8SCheckpoint(of_each_mode).activations
    summary = summarize(open_checkpoint(of_each_mode))
    assert summary.activations == mode
    assert (summary.types.get("W8A8S_DYNAMIC") is None) == (mode in ("overflow", "static"))
    assert summary.quantized_weights == summary.linear_weights
    assert summarize(open_checkpoint(tiny_qwen3)).activations is None
    assert summarize(open_checkpoint(w8a8sc)).activations == "static"
