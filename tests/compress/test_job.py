from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantized_directories import edit_tensors, random_linear, same_tensors, stored_tensors, write_vendor_like
from quantized_models import make_w8a8s
from tilepress import codec
from tilepress.checkpoint import FloatCheckpoint, W8A8SCCheckpoint, W8A8SCheckpoint, W8A8SWriter
from tilepress.checkpoint.description import write_description
from tilepress.compress import compress_directory, decompress_directory, job, verify
from tilepress.errors import CheckpointError
from tiny_models import make_tiny_llama, make_tiny_qwen2, make_tiny_qwen3


def expected_part(tp: int, dtype: torch.dtype) -> dict[str, tuple[str, torch.dtype, tuple[int, ...]]]:
    """The format page, spelled out for a part of the tiny Qwen3 (but for the number of compressed bytes)."""
    expected = {
        "model.embed_tokens.weight": ("FLOAT", dtype, (320 // tp, 64)),
        "lm_head.weight": ("FLOAT", dtype, (320 // tp, 64)),
        "model.norm.weight": ("FLOAT", dtype, (64,)),
    }
    kv_rows = 16 * max(4 // tp, 1)
    linears = {
        "self_attn.query_key_value": (128 // tp + 2 * kv_rows, 64),
        "self_attn.o_proj": (64, 128 // tp),
        "mlp.gate_up_proj": (2 * 128 // tp, 64),
        "mlp.down_proj": (64, 128 // tp),
    }
    for layer in ("model.layers.0", "model.layers.1"):
        expected[f"{layer}.input_layernorm.weight"] = ("FLOAT", dtype, (64,))
        expected[f"{layer}.post_attention_layernorm.weight"] = ("FLOAT", dtype, (64,))
        expected[f"{layer}.self_attn.q_norm.weight"] = ("FLOAT", dtype, (16,))
        expected[f"{layer}.self_attn.k_norm.weight"] = ("FLOAT", dtype, (16,))
        for name, (n, k) in linears.items():
            tiles = -(-n // 128) * -(-k // 256)
            expected |= {
                f"{layer}.{name}.weight": ("W8A8SC", torch.int8, (n, k)),
                f"{layer}.{name}.index": ("W8A8SC", torch.int8, (8 * tiles,)),
                f"{layer}.{name}.info": ("W8A8SC", torch.int64, (5,)),
                f"{layer}.{name}.input_scale": ("W8A8S", dtype, (1,)),
                f"{layer}.{name}.input_offset": ("W8A8S", torch.int8, (1,)),
                f"{layer}.{name}.deq_scale": ("W8A8S", torch.int64 if dtype == torch.float16 else torch.float32, (n,)),
                f"{layer}.{name}.quant_bias": ("W8A8S", torch.int32, (n,)),
            }
    return expected


@pytest.mark.parametrize(("tp", "dtype"), [(1, "float16"), (2, "bfloat16"), (8, "float16")])
def test_parts_hold_exactly_what_the_format_says(tmp_path: Path, tiny_qwen3: Path, tp: int, dtype: str) -> None:
    source = make_w8a8s(tiny_qwen3, tmp_path / "w8a8s", dtype=dtype)
    out = tmp_path / "w8a8sc"
    compress_directory(source, out, tp=tp)

    auxiliary = {file.name for file in W8A8SCheckpoint(source).auxiliary_files()}
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        *(f"part{rank}-of-{tp}" for rank in range(tp)),
        *auxiliary,
    }
    config = json.loads((out / "config.json").read_text())
    assert config["quantize"] == "tilepress-w8a8sc-static"
    assert config["torch_dtype"] == dtype
    assert config["quantization_config"] == {"quant_method": "tilepress", "format": "w8a8sc"}
    expected = expected_part(tp, getattr(torch, dtype))
    for rank in range(tp):
        part = out / f"part{rank}-of-{tp}"
        assert {file.name for file in part.iterdir()} == {
            "quant_model_weight_w8a8sc.safetensors",
            "quant_model_description.json",
        }
        tensors = load_file(part / "quant_model_weight_w8a8sc.safetensors")
        types = json.loads((part / "quant_model_description.json").read_text())
        assert types.pop("model_quant_type") == "W8A8SC"
        assert types.pop("version") == "1.0.0"
        assert types == {name: kind for name, (kind, _, _) in expected.items()}
        assert tensors.keys() == expected.keys()
        for name, (kind, dtype_, shape) in expected.items():
            assert tensors[name].dtype == dtype_
            if kind == "W8A8SC" and name.endswith(".weight"):
                n, k = shape
                assert 0 < tensors[name].numel() <= -(-n // 16) * 16 * -(-k // 32) * 32
                info = tensors[name.replace(".weight", ".info")]
                assert info.tolist() == [8, 8, k, n, 0x54500001]
            else:
                assert tuple(tensors[name].shape) == shape


def test_only_rank_0_carries_the_bias_of_a_column_split(w8a8s: Path, w8a8sc: Path) -> None:
    name = "model.layers.0.mlp.down_proj.quant_bias"
    parts = [load_file(part / "quant_model_weight_w8a8sc.safetensors") for part in sorted(w8a8sc.glob("part*"))]
    assert torch.equal(parts[0][name], stored_tensors(w8a8s)[name])
    assert not parts[1][name].any()


def test_the_ranks_add_up_to_the_whole_linear(w8a8s: Path, w8a8sc: Path) -> None:
    """What a tensor-parallel engine does with the parts of down_proj, in integers."""
    prefix = "model.layers.1.mlp.down_proj"
    whole = W8A8SCheckpoint(w8a8s).linear(prefix)
    x = np.random.default_rng(0).integers(-128, 128, 128, dtype=np.int32)
    total = np.zeros(64, np.int32)
    for rank, part in enumerate(W8A8SCCheckpoint(w8a8sc).parts):
        share = part.compressed_linear(prefix)
        total += codec.decode(share.weight).astype(np.int32) @ x[64 * rank : 64 * rank + 64] + share.quant_bias.numpy()
    assert np.array_equal(total, whole.weight.numpy().astype(np.int32) @ x + whole.quant_bias.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("tp", "tied"), [(1, False), (2, True), (4, False), (8, True)])
def test_decompression_gives_back_every_bit(tmp_path: Path, tp: int, tied: bool, dtype: str) -> None:
    # kv_heads=4 and tp=8: two ranks hold each kv head
    source = make_w8a8s(make_tiny_qwen3(tmp_path / "float", tied=tied), tmp_path / "q", dtype=dtype, levels=9)
    compress_directory(source, tmp_path / "c", tp=tp)
    decompress_directory(tmp_path / "c", tmp_path / "back")

    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))
    for file in ("config.json", "quant_model_description.json"):
        assert json.loads((source / file).read_text()) == json.loads((tmp_path / "back" / file).read_text())
    verification = verify(source, tmp_path / "c")
    assert (verification.linears, verification.same) == (14, True)
    assert ("lm_head.weight" in stored_tensors(source)) != tied


@pytest.mark.parametrize(("make", "heads"), [(make_tiny_qwen2, 4), (make_tiny_llama, 8)])
def test_linears_left_float_are_fused_and_split_too(tmp_path: Path, make: Callable[..., Path], heads: int) -> None:
    model = make(tmp_path / "float", heads=heads, kv_heads=2, intermediate=96)
    left = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "model.layers.1.mlp.down_proj")
    source = make_w8a8s(model, tmp_path / "q", float_linears=left)
    compress_directory(source, tmp_path / "c", tp=4)

    part = load_file(tmp_path / "c" / "part3-of-4" / "quant_model_weight_w8a8sc.safetensors")
    fused = part["model.layers.0.self_attn.query_key_value.weight"]
    q, k, v = (FloatCheckpoint(model).tensor(f"model.layers.0.self_attn.{name}_proj.weight") for name in "qkv")
    assert torch.equal(fused, torch.cat([q[-len(q) // 4 :], k[-16:], v[-16:]]))
    down = FloatCheckpoint(model).tensor("model.layers.1.mlp.down_proj.weight")
    assert torch.equal(part["model.layers.1.mlp.down_proj.weight"], down[:, -24:])
    compressed = W8A8SCCheckpoint(tmp_path / "c")
    assert not compressed.is_quantized("model.layers.0.self_attn.k_proj")
    assert compressed.is_quantized("model.layers.0.mlp.up_proj")
    assert sorted(compressed.float_names()) == sorted(W8A8SCheckpoint(source).float_names())
    decompress_directory(tmp_path / "c", tmp_path / "back")
    assert same_tensors(stored_tensors(source), stored_tensors(tmp_path / "back"))


def test_a_bias_of_a_float_column_split_stays_whole(tmp_path: Path, tiny_qwen3: Path) -> None:
    bias = {f"model.layers.{layer}.mlp.down_proj.bias": torch.randn(64) for layer in range(2)}
    source = make_w8a8s(tiny_qwen3, tmp_path / "q", float_linears=["mlp.down_proj"], extra=bias)
    compress_directory(source, tmp_path / "c", tp=2)
    part = load_file(tmp_path / "c" / "part1-of-2" / "quant_model_weight_w8a8sc.safetensors")
    assert not part["model.layers.0.mlp.down_proj.bias"].any()
    assert verify(source, tmp_path / "c").same


@pytest.mark.filterwarnings("ignore:.*duplicate tensors")
@pytest.mark.parametrize("tp", [1, 4])
def test_vendor_made_directories_are_compressed_without_loss(tmp_path: Path, tp: int) -> None:
    model = make_tiny_qwen2(tmp_path / "float", tied=True, heads=4, kv_heads=2)
    source = write_vendor_like(tmp_path / "vendor", model)
    compress_directory(source, tmp_path / "c", tp=tp)

    assert verify(source, tmp_path / "c").same
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    description = json.loads((tmp_path / "c" / f"part0-of-{tp}" / "quant_model_description.json").read_text())
    assert description["metadata"] == {"a.b": ["FLOAT"]}
    part = load_file(tmp_path / "c" / f"part0-of-{tp}" / "quant_model_weight_w8a8sc.safetensors")
    # 0.012345678 is no float16: rounding it would change what the model computes
    assert part["model.layers.0.self_attn.o_proj.input_scale"].dtype == torch.float32
    assert part["model.layers.0.self_attn.o_proj.input_offset"].dtype == torch.int8
    decompress_directory(tmp_path / "c", tmp_path / "back")
    assert verify(tmp_path / "back", tmp_path / "c").same


def test_read_at_any_size_a_compressed_model_is_the_same(tmp_path: Path, w8a8s: Path, w8a8sc: Path) -> None:
    compress_directory(w8a8s, tmp_path / "one", tp=1)
    one, two, plain = W8A8SCCheckpoint(tmp_path / "one"), W8A8SCCheckpoint(w8a8sc), W8A8SCheckpoint(w8a8s)
    assert one.fused_groups() == two.fused_groups() == plain.fused_groups()
    for prefix in plain.fused_groups():
        linears = [checkpoint.compressed_linear(prefix) for checkpoint in (one, two, plain)]
        for linear in linears[1:]:
            assert np.array_equal(codec.decode(linear.weight), codec.decode(linears[0].weight))
            assert torch.equal(linear.deq_scale, linears[0].deq_scale)
            assert torch.equal(linear.quant_bias, linears[0].quant_bias)
            assert (linear.input_scale, linear.input_offset) == (linears[0].input_scale, linears[0].input_offset)


def test_verification_names_what_differs(tmp_path: Path, w8a8s: Path, w8a8s_copy: Path, w8a8sc: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][5, 7] += 1
        tensors["model.layers.0.self_attn.k_proj.quant_bias"][3] += 1
        tensors["model.norm.weight"][0] = -tensors["model.norm.weight"][0]

    edit_tensors(w8a8s_copy / "quant_model_weight_w8a8s.safetensors", change)
    assert verify(w8a8s, w8a8sc).differing == []
    assert verify(w8a8s_copy, w8a8sc).differing == [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.mlp.up_proj",
        "model.norm.weight",
    ]


def test_progress_counts_linears(tmp_path: Path, w8a8s: Path) -> None:
    seen: list[tuple[int, int]] = []
    compress_directory(w8a8s, tmp_path / "c", tp=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 16) for done in range(1, 17)]
    decompress_directory(tmp_path / "c", tmp_path / "q", progress=lambda done, total: seen.append((done, total)))
    assert seen[16:] == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("tp", [0, 3, 16])
def test_a_size_that_does_not_fit_is_refused_with_those_that_do(tmp_path: Path, w8a8s: Path, tp: int) -> None:
    with pytest.raises(CheckpointError, match=r"8 heads, 4 kv heads.* choose one of 1, 2, 4, 8$"):
        compress_directory(w8a8s, tmp_path / "c", tp=tp)
    assert not (tmp_path / "c").exists()


def test_the_wrong_kind_of_source_is_refused(tmp_path: Path, tiny_qwen3: Path, w8a8s: Path, w8a8sc: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a float model; .*tilepress quant"):
        compress_directory(tiny_qwen3, tmp_path / "c")
    with pytest.raises(CheckpointError, match="is compressed already"):
        compress_directory(w8a8sc, tmp_path / "c")
    with pytest.raises(CheckpointError, match="is not compressed"):
        decompress_directory(w8a8s, tmp_path / "q")
    with pytest.raises(CheckpointError, match="is not a W8A8S directory, but float"):
        verify(tiny_qwen3, w8a8sc)
    with pytest.raises(CheckpointError, match="is not a W8A8SC directory, but w8a8s"):
        verify(w8a8s, w8a8s)
    with pytest.raises(CheckpointError, match="exists already"):
        compress_directory(w8a8s, w8a8sc)


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path, w8a8s: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "c"

    def write(part: Path, *others: object) -> None:
        write_description(part, *others)
        out.mkdir()
        (out / "theirs").write_text("kept")

    monkeypatch.setattr(job, "write_description", write)
    with pytest.raises(CheckpointError, match="exists already"):
        compress_directory(w8a8s, out)
    assert [file.name for file in out.rglob("*")] == ["theirs"]


def test_scales_that_no_float16_holds_must_be_rounded_before(tmp_path: Path, tiny_qwen3: Path) -> None:
    linear = random_linear(64, 128, scale=0.1, offset=0)

    def write() -> None:
        with W8A8SWriter(tmp_path / "out", FloatCheckpoint(tiny_qwen3), dtype="float16") as writer:
            writer.add_linear("model.layers.0.mlp.down_proj", linear)

    with pytest.raises(CheckpointError, match=r"down_proj.input_scale is 0.1, which float16 does not hold exactly"):
        write()
