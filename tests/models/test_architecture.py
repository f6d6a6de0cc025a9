from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilepress.checkpoint import GROUPS, FusedLinears, ModelShape, architecture_of
from tilepress.checkpoint.sharding.split import check_tp, columns, held_rows, member_rows, part_shape, spans
from tilepress.errors import CheckpointError
from tilepress.models.architecture import HEAD, float_tensors, fused_groups, group_of

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}


def test_shape_of_qwen3_8b() -> None:
    shape = ModelShape.from_config(CONFIG)
    assert shape == ModelShape(36, 4096, 12288, 32, 8, 128, 151936, False)
    assert shape.linear("self_attn.k_proj") == (1024, 4096)
    assert [shape.group(group) for group in GROUPS] == [(6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)]
    tensors = float_tensors(architecture_of(CONFIG), shape)
    assert len(tensors) == 36 * 11 + 3
    assert sum(n if not k else n * k[0] for n, *k in tensors.values()) == 8_190_735_360


def test_sizes_that_config_leaves_out() -> None:
    without = {key: value for key, value in CONFIG.items() if key not in ("head_dim", "num_key_value_heads")}
    shape = ModelShape.from_config(without | {"head_dim": None})
    assert (shape.kv_heads, shape.head_dim) == (32, 128)


@pytest.mark.parametrize(
    ("name", "switches", "biased"),
    [
        ("Qwen2ForCausalLM", {}, "q k v"),
        ("Qwen3ForCausalLM", {}, ""),
        ("Qwen3ForCausalLM", {"attention_bias": True}, "q k v o"),
        ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": False}, "q k v o"),
        ("LlamaForCausalLM", {"mlp_bias": True}, "gate up down"),
        ("MistralForCausalLM", {"attention_bias": True}, ""),
    ],
)
def test_biases_follow_architecture_and_config(name: str, switches: dict[str, bool], biased: str) -> None:
    architecture = architecture_of({"architectures": [name], **switches})
    assert {linear.split(".")[1].removesuffix("_proj") for linear in architecture.biased} == set(biased.split())


@pytest.mark.parametrize("named", [["Qwen3MoeForCausalLM"], [], None, "x", [["LlamaForCausalLM"]], [{}], 3])
def test_unknown_architectures_are_refused_with_those_known(named: object) -> None:
    with pytest.raises(CheckpointError, match=r"m/config.json: architectures is .*Llama.*Mistral.*Qwen2.*Qwen3"):
        architecture_of({"architectures": named}, Path("m/config.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers is .* from 1 to 1024"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"intermediate_size": None}, "intermediate_size is None"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelShape.from_config(CONFIG | change)


@pytest.mark.parametrize("window", [0, -1, "4096", False])
def test_a_sliding_window_that_mistral_cannot_have_is_refused(window: object) -> None:
    ModelShape.check(CONFIG | {"model_type": "mistral", "sliding_window": None})
    ModelShape.check(CONFIG | {"model_type": "qwen3", "sliding_window": window})
    with pytest.raises(CheckpointError, match=f"sliding_window is {window!r}; it has to be an integer from 1"):
        ModelShape.check(CONFIG | {"model_type": "mistral", "sliding_window": window})


def test_fused_prefixes() -> None:
    assert group_of("model.layers.12.mlp.gate_up_proj") == ("model.layers.12.", GROUPS[2])
    assert group_of("lm_head") == ("", HEAD)
    for other in ("model.layers.1.mlp.gate_proj", "model.layers.x.mlp.down_proj", "mlp.down_proj", "model.norm"):
        with pytest.raises(KeyError):
            group_of(other)


def test_an_untied_head_is_a_group_of_its_own() -> None:
    shape = ModelShape.from_config(CONFIG | {"tie_word_embeddings": False})
    assert list(fused_groups(shape).items())[-1] == ("lm_head", (shape.vocab, shape.hidden))
    assert "lm_head" not in fused_groups(replace(shape, tied=True))


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16, 32])
def test_every_query_head_meets_its_kv_head(tp: int) -> None:
    shape = ModelShape.from_config(CONFIG)
    check_tp(shape, tp, Path("m"))
    for rank in range(tp):
        queries, keys = (member_rows(shape, f"self_attn.{letter}_proj", tp, rank) for letter in "qk")
        needed = {head // 4 for head in range(queries[0] // 128, queries[1] // 128)}
        assert needed == set(range(keys[0] // 128, keys[1] // 128))


@pytest.mark.parametrize("tp", [1, 2, 16])
def test_parts_hold_each_row(tp: int) -> None:
    shape, group = ModelShape.from_config(CONFIG), GROUPS[0]
    for member in group.members:
        rows = []
        for rank, start, stop in held_rows(shape, group, member, tp, (0, shape.linear(member)[0])):
            first, last = member_rows(shape, member, tp, rank)
            assert stop - start == last - first
            rows += list(range(first, last))
        assert rows == list(range(shape.linear(member)[0]))


def rows_of_part(shape: ModelShape, group: FusedLinears, tp: int, rank: int) -> list[tuple[str, int]]:
    """Member and row of each row of a fused part, or the columns of a column split."""
    if group.axis == "columns":
        return [("", column) for column in range(*columns(shape, group, tp, rank))]
    return [(member, row) for member in group.members for row in range(*member_rows(shape, member, tp, rank))]


@pytest.mark.parametrize("group", [*GROUPS, HEAD], ids=lambda group: group.name)
@pytest.mark.parametrize("held", [1, 2, 4, 16, 32])
@pytest.mark.parametrize("tp", [1, 2, 8, 16, 32])
@pytest.mark.parametrize("vocab", [151936, 151665])
def test_spans_of_parts_are_the_part_of_any_other_size(group: FusedLinears, held: int, tp: int, vocab: int) -> None:
    shape = ModelShape.from_config(CONFIG | {"vocab_size": vocab})
    for rank in range(tp):
        found = spans(shape, group, held, rank=rank, tp=tp)
        rows = [row for part, start, stop in found for row in rows_of_part(shape, group, held, part)[start:stop]]
        assert rows == rows_of_part(shape, group, tp, rank)
        if held == tp:
            assert found == [(rank, 0, len(rows))]


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(CheckpointError, match=r"m: 3 tensor-parallel parts do not fit .* one of 1, 2, 4, 8, 16, 32"):
        check_tp(ModelShape.from_config(CONFIG), 3, Path("m"))
    small = ModelShape.from_config(CONFIG | {"vocab_size": 65})
    with pytest.raises(CheckpointError, match=r"choose one of 1, 2$"):  # of 4 ranks the last two would have no row
        check_tp(small, 4, Path("m"))


@pytest.mark.parametrize(
    ("vocab", "rows"), [(128288, (64160, 64128)), (151665, (75840, 75825)), (32001, (16032, 15969))]
)
def test_a_vocabulary_is_split_as_vllm_splits_it(vocab: int, rows: tuple[int, int]) -> None:
    shape = ModelShape.from_config(CONFIG | {"vocab_size": vocab})
    assert tuple(part_shape(shape, HEAD, 2, rank)[0] for rank in range(2)) == rows
