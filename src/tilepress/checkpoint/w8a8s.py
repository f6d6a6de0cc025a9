"""A sparse and quantized model in a W8A8S directory, of ours or of the vendor's tool."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tilepress.checkpoint.auxiliary import auxiliary_files
from tilepress.checkpoint.description import (
    FLOAT,
    W8A8,
    W8A8_DYNAMIC,
    W8A8_MIX,
    W8A8S,
    W8A8S_DYNAMIC,
    W8A8SC,
    W16A16S,
    Description,
    description_file,
    flavour,
    read_config,
    read_description,
)
from tilepress.checkpoint.safetensors.reader import Stored, TensorFiles, find_weights
from tilepress.checkpoint.sharding.shard import Shard
from tilepress.checkpoint.sharding.shard_of_w8a8s import ShardOfW8A8S
from tilepress.checkpoint.tensors.activation_mode import mode_of, row_sums
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear
from tilepress.checkpoint.tensors.embedding import (
    EMBEDDING,
    CompressedEmbedding,
    QuantizedEmbedding,
    check_weight_scale,
    shares_table,
    tied_to_integers,
)
from tilepress.checkpoint.tensors.quantized_linear import (
    PARAMETERS,
    QuantizedLinear,
    dynamic_linear,
    unpack,
    unpack_input_offset,
    unpack_input_scale,
)
from tilepress.checkpoint.tensors.table import FLOAT_DTYPES, TensorTable
from tilepress.errors import CheckpointError, TilepressWarning
from tilepress.models.architecture import (
    HEAD,
    ModelShape,
    architecture_of,
    fused_groups,
    group_of,
    linear_shapes,
    norm_shapes,
)

_QUANTIZED = (W8A8S, W8A8SC)
CACHE_SCALES = (".kv_cache_scale", ".kv_cache_offset")


class W8A8SCheckpoint:
    """config.json, description and weights. Opening reads headers and input scales; weights are read when asked for.

    shares_table: the embedding is the head's integers. Raises CheckpointError for anything that
    docs/reference/formats.md does not allow in such a directory.
    """

    kind: Literal["w8a8s"] = "w8a8s"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        self.config: dict[str, Any] = read_config(path)
        self.architecture = architecture_of(self.config, config)
        self.description = _read_w8a8s_description(path)
        self.activations = mode_of(self.description)
        weights = find_weights(path)
        if weights is None:
            raise CheckpointError(f"{path}: no .safetensors file beside {self.description.path.name}")
        self._files = TensorFiles(weights)
        shape = ModelShape.from_config(self.config, config)
        self.shares_table = shares_table(shape, self.description, self._files)
        tied = shape.tied and "lm_head.weight" not in self._files and not self.shares_table
        self.shape = replace(shape, tied=tied)
        self._linears = linear_shapes(self.shape)
        if not self.shape.tied:
            self._linears[HEAD.name] = self.shape.group(HEAD)
        self._folded_biases: set[str] = set()
        self._unused: set[str] = set()  # of the vendor's tool, which follow from others or serve other engines
        table = TensorTable(self._files, self.description)
        self._check_linears(table)
        self._check_floats(table)
        self._types = table.types
        self._check_surplus()
        for prefix in fused_groups(self.shape):
            self._check_group(prefix)

    @property
    def dtype(self) -> str:
        """ "float16" or "bfloat16": the flavour."""
        return flavour(self.config, self.inventory())

    def is_quantized(self, prefix: str) -> bool:
        """True if a linear such as "model.layers.0.mlp.up_proj" or "lm_head", or an own embedding is integers."""
        return self._types.get(f"{prefix}.weight") in (W8A8S, W8A8S_DYNAMIC, W8A8_DYNAMIC)

    def linears(self) -> list[str]:
        """Full names of all linears, those of an untied head too."""
        return list(self._linears)

    def quantized_linears(self) -> list[str]:
        return [prefix for prefix in self._linears if self.is_quantized(prefix)]

    def linear(self, prefix: str) -> QuantizedLinear:
        """The quantized linear `prefix`; its weight is a view of the mapped file."""
        if self._types[f"{prefix}.weight"] == W8A8_DYNAMIC:
            return self._dynamic_linear(prefix)
        stored = {name: self._files.tensor(f"{prefix}.{name}") for name in PARAMETERS}
        file = self._files.stored(f"{prefix}.weight").file
        try:
            linear = replace(unpack(prefix, stored), kind=self._types[f"{prefix}.weight"])
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from None
        if f"{prefix}.bias" in self._folded_biases:
            _check_folded(file, prefix, linear, self._files.tensor(f"{prefix}.bias"))
        return linear

    def _dynamic_linear(self, prefix: str) -> QuantizedLinear:
        weight, scale = (self._files.tensor(f"{prefix}.{leaf}") for leaf in ("weight", "weight_scale"))
        bias = self._files.tensor(f"{prefix}.bias") if f"{prefix}.bias" in self._files else None
        try:
            return dynamic_linear(prefix, weight, scale, bias)
        except CheckpointError as error:
            raise CheckpointError(f"{self._files.stored(f'{prefix}.weight').file}: {error}") from None

    def fused_groups(self) -> list[str]:
        """Prefixes of the groups whose linears are quantized, such as "model.layers.0.self_attn.query_key_value"."""
        return [prefix for prefix in fused_groups(self.shape) if self.is_quantized(_members(prefix)[0])]

    def shard(self, rank: int, tp: int, *, threads: int | None = None, fast: bool = False) -> Shard:
        """Return the shard that rank `rank` of `tp` loads, compressed on demand."""
        return ShardOfW8A8S(self, rank, tp, threads, fast)

    @cached_property
    def whole(self) -> Shard:
        """The one shard of the whole model, made once; single tensors are read through it."""
        return self.shard(0, 1)

    def compressed_linear(self, prefix: str) -> CompressedLinear:
        """The fused group `prefix`, compressed now."""
        return self.whole.compressed_linear(prefix)

    def embedding(self) -> QuantizedEmbedding:
        """The quantized embedding; its weight is a view of the mapped file."""
        if self.shares_table:
            return QuantizedEmbedding.of_head(self.linear(HEAD.name))
        file = self._files.stored(f"{EMBEDDING}.weight").file
        weight_scale = self._files.tensor(f"{EMBEDDING}.weight_scale")
        try:
            return QuantizedEmbedding(self._files.tensor(f"{EMBEDDING}.weight"), check_weight_scale(weight_scale))
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from None

    def compressed_embedding(self) -> CompressedEmbedding:
        """The quantized embedding, compressed now."""
        return self.whole.compressed_embedding()

    def float_names(self) -> list[str]:
        """Names of all float tensors: embedding, head, norms, linears left float, and the biases of the latter two."""
        return [name for name, kind in self._types.items() if kind == FLOAT]

    def float_tensor(self, name: str) -> Tensor:
        """A float tensor in its stored dtype, mapped from the file; not to be written to."""
        if self._types.get(name) != FLOAT:
            raise CheckpointError(f"{self._files.path}: {name} is no float tensor of this checkpoint")
        return self._files.tensor(name)

    def inventory(self) -> list[tuple[str, Stored]]:
        """Type and header of each tensor that is read."""
        return [(kind, self._files.stored(name)) for name, kind in self._types.items()]

    def files(self) -> list[Path]:
        """The weight files."""
        return self._files.files()

    def release(self) -> None:
        """Give back the memory of the pages that were read of the weight files: see `release_pages`."""
        self._files.release()

    def auxiliary_files(self) -> list[Path]:
        return auxiliary_files(self.path)

    def _check_linears(self, table: TensorTable) -> None:
        for prefix, (n, k) in self._linears.items():
            self._files.stored(f"{prefix}.weight")
            kind = self.description.require(f"{prefix}.weight", (FLOAT, *_QUANTIZED, W8A8S_DYNAMIC, W8A8_DYNAMIC))
            if kind == FLOAT:
                table.add_float(f"{prefix}.weight", (n, k))
                biased = prefix.split(".", 3)[-1] in self.architecture.biased
                if biased or (f"{prefix}.bias" in self._files and prefix != HEAD.name):
                    table.add_float(f"{prefix}.bias", (n,))
                continue
            kind = W8A8S if kind == W8A8SC else kind
            table.add_weight(prefix, (n, k), kind)
            if kind == W8A8_DYNAMIC:
                self._files.stored(f"{prefix}.weight_scale")
                if f"{prefix}.bias" in self._files:  # becomes quant_bias
                    self._files.expect(f"{prefix}.bias", (n,), FLOAT_DTYPES)
                    self._unused.add(f"{prefix}.bias")
                self._check_weight_scales(prefix, n)
                continue
            table.add_scales(prefix, n, kind)
            if f"{prefix}.bias" in self._files:  # the vendor's tool keeps the bias that quant_bias contains
                self._files.expect(f"{prefix}.bias", (n,), FLOAT_DTYPES)
                self._folded_biases.add(f"{prefix}.bias")
            self._check_weight_scales(prefix, n)

    def _check_weight_scales(self, prefix: str, n: int) -> None:
        """The vendor's W8A8 has scales of the weights beside, which are deq_scale / input_scale, and offsets of 0."""
        for leaf in ("weight_scale", "weight_offset"):
            name = f"{prefix}.{leaf}"
            if name not in self._files:
                continue
            stored = self._files.stored(name)
            self._files.expect(name, (n, 1) if len(stored.shape) == 2 else (n,), FLOAT_DTYPES)
            if leaf == "weight_offset" and bool(self._files.tensor(name).any()):
                raise CheckpointError(
                    f"{stored.file}: {name} is not 0: weights with an offset are not read; quantize them symmetrically"
                )
            self._unused.add(name)

    def _check_floats(self, table: TensorTable) -> None:
        self._check_embedding(table)
        for norm, size in norm_shapes(self.architecture, self.shape).items():
            table.add_float_and_bias(norm, size)

    def _check_embedding(self, table: TensorTable) -> None:
        size = (self.shape.vocab, self.shape.hidden)
        if self.shares_table:
            return
        self._files.stored(f"{EMBEDDING}.weight")
        if self.description.require(f"{EMBEDDING}.weight", (FLOAT, *_QUANTIZED)) == FLOAT:
            table.add_float(f"{EMBEDDING}.weight", size)
            return
        table.add_weight(EMBEDDING, size, W8A8S)
        table.add_weight_scale(EMBEDDING, size[0])
        if self.shape.tied:
            raise tied_to_integers(self._files.path)

    def _check_surplus(self) -> None:
        known = self._types.keys() | self._folded_biases | self._unused
        surplus = [name for name in self._files if name not in known]
        cached = [name for name in surplus if name.endswith(CACHE_SCALES)]
        if cached:
            warnings.warn(
                f"{self.path}: {len(cached)} scales of keys and values such as {cached[0]} are not used: keys and "
                "values are kept as --kv says",
                TilepressWarning,
                stacklevel=4,
            )
        surplus = [name for name in surplus if name not in cached]
        duplicates = [name for name in surplus if ".module." in name]
        for name in surplus:
            if name not in duplicates:
                raise CheckpointError(
                    f"{self._files.stored(name).file}: {name} is not a tensor that tilepress reads in a W8A8S "
                    f"directory of {self.architecture.name}; check that weights and config.json belong together"
                )
        for name in duplicates:
            self._check_duplicate(name)
        if duplicates:
            warnings.warn(
                f"{self.path}: ignored {len(duplicates)} duplicate tensors such as {duplicates[0]}",
                TilepressWarning,
                stacklevel=4,
            )

    def _check_duplicate(self, name: str) -> None:
        """A norm that stands twice has to be the same twice: older tools kept the smoothed one under the other name."""
        plain = name.replace(".module.", ".")
        tensor = self._files.tensor(name)
        if plain in self._files:
            same = torch.equal(tensor.float(), self._files.tensor(plain).float())
        else:
            same = not bool(tensor.any())  # a bias of zeros
        if not same:
            raise CheckpointError(
                f"{self._files.stored(name).file}: {name} differs from {plain}, and which one a linear reads is not "
                "stored; quantize the model again with a newer tool"
            )

    def _check_group(self, prefix: str) -> None:
        members = _members(prefix)
        first = members[0]
        for other in members[1:]:
            kinds = [self._types[f"{member}.weight"] for member in (first, other)]
            if kinds[0] != kinds[1]:
                raise CheckpointError(
                    f"{self.description.path}: {first}.weight is {kinds[0]} and {other}.weight is {kinds[1]}; linears "
                    "that read the same input have to be of one type, quantize the model again"
                )
        if not self.is_quantized(first) or self._types[f"{first}.weight"] == W8A8_DYNAMIC:
            return
        for name, read in (("input_scale", unpack_input_scale), ("input_offset", unpack_input_offset)):
            try:
                values = [read(member, self._files.tensor(f"{member}.{name}")) for member in members]
            except CheckpointError as error:
                raise CheckpointError(f"{self._files.path}: {error}") from None
            for member, value in zip(members, values, strict=True):
                if value != values[0]:
                    raise CheckpointError(
                        f"{self._files.path}: {first}.{name} is {values[0]} and {member}.{name} is {value}; linears "
                        "that read the same input have to share it, quantize the model again"
                    )


def _members(prefix: str) -> list[str]:
    """Full names of the linears of a fused group."""
    scope, group = group_of(prefix)
    return [f"{scope}{member}" for member in group.members]


def _read_w8a8s_description(path: Path) -> Description:
    file = description_file(path)
    if file is None:
        raise CheckpointError(f"{path}: no quant_model_description.json; get the checkpoint again")
    description = read_description(file)
    if description.model_type not in (W8A8S, W8A8, W8A8_MIX, W8A8_DYNAMIC, W16A16S):
        raise CheckpointError(
            f"{file}: model_quant_type is {description.model_type!r}; tilepress reads W8A8S, W8A8, W8A8_MIX, "
            "W8A8_DYNAMIC and W16A16S here, "
            "quantize the float model with `tilepress quant`"
        )
    return description


def _check_folded(file: Path, prefix: str, linear: QuantizedLinear, bias: Tensor) -> None:
    """A bias beside a quantized linear is not added again: make sure that quant_bias has it."""
    folded = folded_bias(linear)
    slack = linear.deq_scale + 1e-2 * bias.double().abs()
    if bool(((folded - bias.double()).abs() > slack).any()):
        raise CheckpointError(
            f"{file}: {prefix}.bias is not contained in {prefix}.quant_bias, as the format has it; "
            "quantize the model again"
        )


def folded_bias(linear: QuantizedLinear) -> Tensor:
    """Return the bias that quant_bias contains, float64 [n], to within half a deq_scale."""
    sums = row_sums(linear.weight).long()
    return (linear.quant_bias + linear.input_offset * sums).double() * linear.deq_scale
