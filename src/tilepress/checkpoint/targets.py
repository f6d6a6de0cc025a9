"""What engines ask of a W8A8S directory, and a check of a directory tensor by tensor.

Read from the vendor's public sources: MindIE-LLM (examples/atb_models/atb_llm) and vLLM-Ascend (vllm_ascend/_310p and
vllm_ascend/quantization). docs/reference/formats.md, "The vendor's engines", says it in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilepress.checkpoint.description import (
    ACTIVATIONS,
    DESCRIPTION,
    FLOAT,
    OVERFLOW,
    STATIC,
    W8A8,
    W8A8S,
    W8A8S_OVERFLOW,
    completed,
    quantized_config,
)
from tilepress.checkpoint.safetensors.reader import TensorFiles, find_weights
from tilepress.checkpoint.tensors.activation_mode import DYNAMIC
from tilepress.checkpoint.tensors.embedding import EMBEDDING
from tilepress.checkpoint.tensors.quantized_linear import PARAMETERS
from tilepress.errors import UsageError
from tilepress.jobs.json_files import read_object
from tilepress.models.architecture import HEAD, ModelShape, architecture_of, linear_shapes, norm_shapes

HEAD_WEIGHT = f"{HEAD.name}.weight"
EMBEDDING_WEIGHT = f"{EMBEDDING}.weight"
# MindIE-LLM reads this of Qwen's config.json without a default.
TRANSFORMERS_VERSION = "4.51.0"
# That of MindIE-LLM for Qwen2 reads a bias beside quantized linears, which it does not add.
ASKS_FOR_BIAS = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True)
class Target:
    """name: as the command line has it. engines: whose form it is. own: tilepress's, which others have to refuse.

    kind: the type of quantized linears. dtypes: flavours. activations: the modes that the engines compute; None: all,
    and integer tables too.
    """

    name: str
    engines: str
    kind: str
    dtypes: tuple[str, ...]
    own: bool = False
    activations: tuple[str, ...] | None = None

    def config(self, source: Mapping[str, Any], *, tied: bool, mode: str, dtype: str) -> dict[str, Any]:
        """Return `source` as the config.json of a W8A8S directory."""
        config = quantized_config(source, kind="w8a8s", tied=tied, mode=mode, dtype=dtype)
        if self.own:
            return config
        del config["quantization_config"]  # vLLM-Ascend takes the description where there is none
        return {"transformers_version": TRANSFORMERS_VERSION} | config | {"quantize": self.kind.lower()}

    def remark(self, config: Mapping[str, Any], path: Path) -> str | None:
        """Return what one of the engines would compute wrongly, though all take the directory."""
        shape = ModelShape.from_config(config, path)
        if self.own or config.get("model_type") == "qwen3" or shape.head_dim * shape.heads == shape.hidden:
            return None
        return (
            "MindIE-LLM takes hidden_size / num_attention_heads for head_dim, "
            f"{shape.hidden / shape.heads:g} where this model has {shape.head_dim}: load it in vLLM-Ascend"
        )

    def description(self, types: Mapping[str, str], extra: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the types and the global keys of the description."""
        if self.own:
            overflow = extra.get(ACTIVATIONS) == OVERFLOW
            return {n: W8A8S_OVERFLOW if overflow and kind == W8A8S else kind for n, kind in types.items()}, dict(extra)
        named = {name: self.kind if kind == W8A8S else kind for name, kind in types.items()}
        # Asked for where vLLM builds a head and ties it then.
        return named | {HEAD_WEIGHT: FLOAT}, {}

    def biases(self, config: Mapping[str, Any], types: Mapping[str, str], path: Path) -> list[str]:
        """Return the quantized linears beside which a bias has to stand that the description does not name yet."""
        architecture = architecture_of(dict(config), path)
        if self.own or architecture.name not in ASKS_FOR_BIAS:
            return []
        return [
            name.removesuffix(".weight")
            for name, kind in types.items()
            if name.endswith(".weight")
            and kind == W8A8S
            and name.removesuffix(".weight").split(".", 3)[-1] in architecture.biased
            and f"{name.removesuffix('.weight')}.bias" not in types
        ]


TILEPRESS = Target("tilepress", "tilepress", W8A8S, ("float16", "bfloat16"), own=True)
VENDOR = Target(
    "vendor", "MindIE-LLM and vLLM-Ascend on Atlas 300I Duo (310P)", W8A8S, ("float16",), activations=(STATIC,)
)
VENDOR_A2 = Target(
    "vendor-a2",
    "MindIE-LLM and vLLM-Ascend on Atlas A2 and A3",
    W8A8,
    ("float16", "bfloat16"),
    activations=(STATIC,),
)
# Of tilepress's own form, from which `tilepress export` makes what stock vLLM reads.
VLLM_STOCK = Target(
    "vllm-stock",
    "stock vLLM",
    W8A8S,
    ("float16", "bfloat16"),
    own=True,
    activations=(DYNAMIC, STATIC),
)
TARGETS = {target.name: target for target in (TILEPRESS, VENDOR, VENDOR_A2, VLLM_STOCK)}


def target_named(name: str) -> Target:
    """Raises UsageError for another name."""
    if name not in TARGETS:
        raise UsageError(f"--for {name}: use one of {', '.join(TARGETS)}")
    return TARGETS[name]


def refusals(directory: Path, target: Target) -> list[str]:
    """Return what the target's engines would refuse or compute wrongly in a W8A8S directory, each with its name.

    Reads the files as they do, and nothing of what tilepress makes of them. Raises CheckpointError where the directory
    is not even that.
    """
    return list(_Check(directory, target).all())


class _Check:
    def __init__(self, directory: Path, target: Target) -> None:
        self._target = target
        self._config = read_object(directory / "config.json")
        self._described = (directory / DESCRIPTION).is_file()
        self._types = read_object(directory / DESCRIPTION) if self._described else {}
        weights = find_weights(directory)
        self._files = None if weights is None else TensorFiles(weights)
        self._shape = ModelShape.from_config(completed(dict(self._config), directory), directory / "config.json")
        self._biased = architecture_of(self._config, directory / "config.json")

    def all(self) -> Iterator[str]:
        if not self._described or self._files is None:
            yield f"{DESCRIPTION} or the weight files are missing"
            return
        yield from self._of_config()
        yield from self._of_description()
        expected = {EMBEDDING_WEIGHT}
        yield from self._float(EMBEDDING_WEIGHT)
        tied = bool(self._config.get("tie_word_embeddings"))
        if not tied or HEAD_WEIGHT in self._files:
            expected.add(HEAD_WEIGHT)
            yield from self._float(HEAD_WEIGHT)
        both = tied and HEAD_WEIGHT in self._files and EMBEDDING_WEIGHT in self._files
        if both and not torch.equal(self._files.tensor(HEAD_WEIGHT), self._files.tensor(EMBEDDING_WEIGHT)):
            yield f"{HEAD_WEIGHT}: differs from the embedding, which is taken where tie_word_embeddings is true"
        for prefix, shape in linear_shapes(self._shape).items():
            names, problems = self._linear(prefix, shape)
            expected |= names
            if self._target.kind == W8A8:
                expected |= {f"{prefix}.weight_scale", f"{prefix}.weight_offset"}
            yield from problems
        for norm in norm_shapes(self._biased, self._shape):
            expected |= {f"{norm}.weight", f"{norm}.bias"}
        for name in self._files:
            if name not in expected:
                yield f"{name}: is no parameter of theirs"

    def _of_config(self) -> Iterator[str]:
        config, kind = self._config, self._target.kind.lower()
        if config.get("quantize") != kind:
            yield f"config.json: quantize is {config.get('quantize')!r}, not {kind!r}"
        if "quantization_config" in config:
            yield "config.json: has a quantization_config, which vLLM takes for another method"
        named = [(key, config[key]) for key in ("torch_dtype", "dtype") if key in config]
        for key, value in named or [("torch_dtype", None)]:
            if value not in self._target.dtypes:
                yield f"config.json: {key} is {value!r}, not {' or '.join(self._target.dtypes)}"
        for missing in ("transformers_version", "tie_word_embeddings", "model_type"):
            if missing not in config:
                yield f"config.json: {missing} is missing"

    def _of_description(self) -> Iterator[str]:
        if self._types.get("model_quant_type") != self._target.kind:
            yield f"{DESCRIPTION}: model_quant_type is {self._types.get('model_quant_type')!r}"
        mode = self._types.get(ACTIVATIONS, STATIC)
        if mode != STATIC:
            yield f"{DESCRIPTION}: {ACTIVATIONS} is {mode!r}: they clamp tokens that need a scale of their own"
        if HEAD_WEIGHT not in self._types:
            yield f"{DESCRIPTION}: does not describe {HEAD_WEIGHT}"

    def _float(self, name: str) -> Iterator[str]:
        assert self._files is not None
        if name not in self._files:
            yield f"{name}: is missing"
            return
        if str(self._files.stored(name).dtype).removeprefix("torch.") not in ("float16", "bfloat16", "float32"):
            yield f"{name}: is {self._files.stored(name).dtype}; they have no integers there"
        if self._types.get(name) != FLOAT:
            yield f"{DESCRIPTION}: {name} is {self._types.get(name)!r}, not {FLOAT!r}"

    def _linear(self, prefix: str, shape: tuple[int, int]) -> tuple[set[str], list[str]]:
        """Return the names of the linear's tensors that engines take, and what is wrong with them."""
        assert self._files is not None
        weight, bias = f"{prefix}.weight", f"{prefix}.bias"
        kind = self._types.get(weight)
        biased = prefix.split(".", 3)[-1] in self._biased.biased
        wanted = {bias} if biased and self._biased.name in ASKS_FOR_BIAS else set()
        if kind == FLOAT:
            return {weight, bias}, [*self._float(weight), *(f"{n}: is missing" for n in wanted if n not in self._files)]
        names = {f"{prefix}.{name}" for name in PARAMETERS}
        problems = [f"{name}: is missing" for name in sorted(names | wanted) if name not in self._files]
        if kind != self._target.kind:
            problems.append(f"{DESCRIPTION}: {weight} is {kind!r}, not {self._target.kind!r} or {FLOAT!r}")
        half = self._config.get("torch_dtype") == "float16"
        deq_scale = torch.int64 if half else torch.float32
        for name, expected, dtypes in (
            ("weight", shape, (torch.int8,)),
            ("input_scale", (1,), (torch.float16, torch.bfloat16, torch.float32)),
            ("input_offset", (1,), (torch.int8, torch.float16, torch.bfloat16, torch.float32)),
            ("deq_scale", shape[:1], (deq_scale,)),
            ("quant_bias", shape[:1], (torch.int32,)),
        ):
            full = f"{prefix}.{name}"
            if full not in self._files:
                continue
            stored = self._files.stored(full)
            if tuple(stored.shape) != tuple(expected) or stored.dtype not in dtypes:
                problems.append(f"{full}: is {stored.dtype} {list(stored.shape)}, not {dtypes[0]} {list(expected)}")
        return names | {bias}, problems
