"""Quantization configs of the vendor's tool: what of them is taken, and what is named as not taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilepress.checkpoint import FloatCheckpoint, W8A8SCheckpoint
from tilepress.checkpoint.targets import VENDOR, VENDOR_A2, refusals
from tilepress.cli import main
from tilepress.errors import UsageError
from tilepress.models.architecture import ModelShape
from tilepress.quantize import VendorConfig, engine_of_tags, read_vendor_config

SHAPE = ModelShape(2, 64, 96, 4, 2, 16, 320, tied=True)
# Of the kind of their recipe for Qwen3-8B, whose sparse integers are w_bit 4.
SPARSE = """\
apiversion: modelslim_v0
metadata: {config_id: mine, label: {w_bit: 8, a_bit: 8, is_sparse: True}}
spec:
  anti_cfg: {anti_method: m6}
  calib_cfg:
    w_bit: 4
    a_bit: 8
    fraction: 0.012
    disable_names: ['lm_head', 'model.layers.1.self_attn.o_proj']
  calib_params:
    mix_cfg:
      "model.layers.1.mlp.gate_proj": "float"
      "model.layers.1.mlp.down_proj": "w8a8"
      "model.layers.*.mlp.down_proj": "float"
  calib_dataset: text.jsonl
"""
PROCESSES = """\
apiversion: modelslim_v1
spec:
  process:
    - type: flex_smooth_quant
    - type: group
      configs:
        - type: linear_quant
          qconfig:
            act: {scope: per_tensor, dtype: int8, symmetric: False, method: minmax}
            weight: {scope: per_channel, dtype: int8, symmetric: True, method: minmax}
          include: ["*self_attn*"]
        - type: linear_quant
          qconfig: {act: {scope: per_token, dtype: int8}}
          include: ["*mlp*"]
          exclude: ["*down_proj"]
  save: [{type: ascendv1_saver, part_file_size: 4}]
"""


def read(folder: Path, text: str) -> VendorConfig:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return read_vendor_config(folder / "config.yaml", SHAPE)


def test_disabled_and_float_linears_stay_float(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"inputs_pretokenized": "a text"}\n', encoding="utf-8")
    config = read(tmp_path, SPARSE)
    assert set(config.settings["float_linears"]) == {
        "model.layers.0.mlp.down_proj",  # but for layer 1, whose own rule comes first
        "model.layers.1.mlp.gate_proj",
        "model.layers.1.self_attn.o_proj",
    }
    assert config.settings["float_above"] == 0.0
    assert config.calibration == tmp_path / "text.jsonl"
    assert [field.split()[0] for field in config.unused] == ["calib_cfg.fraction", "anti_cfg"]


def test_a_text_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, SPARSE)
    assert config.calibration is None
    assert config.unused[-1] == "text.jsonl (not beside the config)"


def test_what_processes_do_not_include_stays_float(tmp_path: Path) -> None:
    config = read(tmp_path, PROCESSES)
    assert config.settings["float_linears"] == ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")
    assert config.settings["activations"] == "dynamic"
    assert any("flex_smooth_quant" in field for field in config.unused)
    assert any("ascendv1_saver" in field for field in config.unused)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apiversion: modelslim_v2", "apiversion is 'modelslim_v2'; tilepress reads modelslim_v0 and modelslim_v1"),
        ("- a list", "the file is .* it has to be a table"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
        (SPARSE.replace("a_bit: 8\n", "a_bit: 4\n"), "spec.calib_cfg.a_bit is 4; tilepress makes W8A8S"),
        (SPARSE.replace("w_bit: 4\n", "w_bit: 4\n    is_dynamic: 'False'\n"), "is_dynamic is 'False'"),
        (SPARSE.replace("['lm_head', 'model.layers.1.self_attn.o_proj']", "lm_head"), "disable_names is 'lm_head'"),
        (PROCESSES.replace("dtype: int8, symmetric: True", "dtype: int4"), "qconfig.weight.dtype is 'int4'"),
        ("apiversion: modelslim_v1\nspec: {process: [{type: float_sparse}]}", "no linear_quant"),
        ("apiversion: modelslim_v1\nspec: {process: 7}", "no list of processes"),
        ("apiversion: modelslim_v1\nspec: {process: [7]}", "a process is '7'"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        read(tmp_path, text)
    assert str(tmp_path / "config.yaml") in str(raised.value)


def test_tags_name_the_accelerator() -> None:
    assert engine_of_tags(["MindIE", "Atlas_A2_Inference"]) == (VENDOR_A2.name, ())
    assert engine_of_tags(["vllm", "Atlas_300I_Duo"]) == (VENDOR.name, ())
    assert engine_of_tags(["cpu", "llama3", "Data2"]) == (None, ("cpu", "llama3", "Data2"))


def test_the_vendors_line_with_a_config(tiny_qwen3: Path, calibration: Path, tmp_path: Path) -> None:
    text = json.dumps({"inputs_pretokenized": calibration.read_text(encoding="utf-8")})
    (tmp_path / "text.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(SPARSE, encoding="utf-8")
    line = (
        f"quant --model_path {tiny_qwen3} --save_path {tmp_path / 'out'} --device cpu --model_type Qwen3-8B "
        f"--config_path {tmp_path / 'config.yaml'} --tag MindIE Atlas_300I_Duo --trust_remote_code True "
        "--samples 4 --sequence_length 64"
    )
    assert main(line.split()) == 0
    assert refusals(tmp_path / "out", VENDOR) == []
    made = W8A8SCheckpoint(tmp_path / "out")
    floats = {"model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.up_proj"}
    assert not floats & set(made.quantized_linears())
    assert FloatCheckpoint(tiny_qwen3).shape == made.shape


def test_a_config_and_a_recipe_are_one_too_many(
    tiny_qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"quant -m {tiny_qwen3} -o {tmp_path / 'out'} --config-path a.yaml --recipe b.toml"
    assert main(line.split()) == 2
    assert "--config-path and --recipe: give one of them" in capsys.readouterr().err


def test_fields_that_are_left_out_are_named(tmp_path: Path) -> None:
    names = SPARSE.replace("'model.layers.1.self_attn.o_proj'", "'model.layers.99.mlp.down_proj'")
    assert "disable_names model.layers.99.mlp.down_proj" in read(tmp_path, names).unused
    assert read(tmp_path, SPARSE.replace("text.jsonl", "t" * 300)).calibration is None
    grouped = read(tmp_path, PROCESSES.replace("scope: per_channel", "scope: per_group, group_size: 64")).unused
    assert {"qconfig.weight.scope 'per_group'", "qconfig.weight.group_size 64"} <= set(grouped)
    assert any(field.startswith("scope per_tensor (other linears") for field in grouped)


def test_a_bomb_of_aliases_takes_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    text = "\n".join([*lines, "apiversion: modelslim_v0", "spec: {anti_cfg: *a9}"])
    assert len(read(tmp_path, text).unused[0]) < 1000


def test_options_of_the_command_line_are_added(tiny_qwen3: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SPARSE, encoding="utf-8")
    line = f"quant {tiny_qwen3} -o {tmp_path / 'out'} --config-path {tmp_path / 'config.yaml'} --float layers.0.*"
    assert main([*line.split(), "--tag", "MindIE", "--samples", "2", "--sequence-length", "32"]) == 0
    left = set(W8A8SCheckpoint(tmp_path / "out").quantized_linears())
    assert left == {
        f"model.layers.1.{name}"
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    }
