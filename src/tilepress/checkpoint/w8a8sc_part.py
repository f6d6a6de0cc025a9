"""One part of a W8A8SC directory: what one tensor-parallel rank loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint.description import (
    FLOAT,
    W8A8_DYNAMIC,
    W8A8S,
    W8A8S_DYNAMIC,
    W8A8SC,
    description_file,
    read_description,
)
from tilepress.checkpoint.safetensors.reader import Stored, TensorFiles, find_weights
from tilepress.checkpoint.sharding.split import part_shape
from tilepress.checkpoint.tensors.activation_mode import is_dynamic, mode_of
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear, Scales, naming_damage
from tilepress.checkpoint.tensors.embedding import (
    EMBEDDING,
    CompressedEmbedding,
    check_weight_scale,
    shares_table,
    tied_to_integers,
)
from tilepress.checkpoint.tensors.quantized_linear import unpack_deq_scale, unpack_input_offset, unpack_input_scale
from tilepress.checkpoint.tensors.table import TensorTable
from tilepress.codec import BITSTREAM_V1, BITSTREAM_V2, RESIDENT_FORM, Compressed, EntropyCoded
from tilepress.errors import BitstreamError, CheckpointError
from tilepress.models.architecture import HEAD, Architecture, ModelShape, fused_groups, group_of, norm_shapes

COMPRESSED = ("weight", "index", "info")
# The last number of info in what the vendor's compressor writes, and how its engine calls the layers of Qwen.
VENDORS_FORM = 1
VENDORS_LAYERS = "transformer.h."


def closed_bitstream(file: Path, prefix: str | None = None) -> BitstreamError:
    """The error for a weight that the vendor's compressor made."""
    what = file if prefix is None else f"{file}: {prefix}"
    return BitstreamError(
        f"{what} is compressed by the vendor's tool for Atlas cards, whose bitstream is closed; compress the W8A8S "
        "directory that it was made of with `tilepress compress`"
    )


class Part:
    """Tensors of one part, checked on opening against the model's shape, `rank` and `tp`. tied: no head is stored.

    shares_table: the embedding is the head's integers. Raises CheckpointError; BitstreamError where a weight is not of
    our bitstream.
    """

    def __init__(self, path: Path, architecture: Architecture, shape: ModelShape, rank: int, tp: int) -> None:
        self.path = path
        self._architecture = architecture
        file = description_file(path)
        if file is None:
            raise CheckpointError(f"{path}: no quant_model_description.json; get the checkpoint again")
        self.description = read_description(file)
        if self.description.model_type != W8A8SC:
            raise CheckpointError(
                f"{file}: model_quant_type is {self.description.model_type!r}; it has to be W8A8SC in a part"
            )
        self.activations = mode_of(self.description)
        weights = find_weights(path)
        if weights is None:
            raise CheckpointError(f"{path}: no .safetensors file beside {file.name}")
        self._files = TensorFiles(weights)
        self._refuse_closed()
        self.shares_table = shares_table(shape, self.description, self._files)
        self.tied = shape.tied and "lm_head.weight" not in self._files and not self.shares_table
        self._table = TensorTable(self._files, self.description)
        self.types = self._table.types
        self._check_embedding(*part_shape(shape, HEAD, tp, rank))
        for norm, size in norm_shapes(architecture, shape).items():
            self._table.add_float_and_bias(norm, size)
        for prefix in fused_groups(replace(shape, tied=self.tied)):
            self._check_linear(prefix, *part_shape(shape, group_of(prefix)[1], tp, rank))
        for name in self._files:
            if name not in self.types:
                raise CheckpointError(
                    f"{self._files.stored(name).file}: {name} is not a tensor of a W8A8SC part of {architecture.name}; "
                    "check that it belongs to the model of config.json"
                )

    def is_quantized(self, prefix: str) -> bool:
        """Return True if the fused linear `prefix`, or an own embedding, is compressed."""
        return f"{prefix}.index" in self.types

    def compressed_linear(self, prefix: str, *, threads: int | None = None) -> CompressedLinear:
        """The rank's share of a fused linear; errors as of `tiles` and `scales`."""
        return CompressedLinear(self.tiles(prefix, threads=threads), *self.scales(prefix))

    def scales(self, prefix: str) -> Scales:
        """What belongs to a fused linear beside its weight, mapped from the file. Raises CheckpointError."""
        sums = f"{prefix}.weight_sums"
        try:
            return Scales(
                input_scale=unpack_input_scale(prefix, self._files.tensor(f"{prefix}.input_scale")),
                input_offset=unpack_input_offset(prefix, self._files.tensor(f"{prefix}.input_offset")),
                deq_scale=unpack_deq_scale(prefix, self._files.tensor(f"{prefix}.deq_scale")),
                quant_bias=self._files.tensor(f"{prefix}.quant_bias"),
                weight_sums=self._files.tensor(sums) if sums in self.types else None,
                kind=self.types[f"{prefix}.input_scale"],
            )
        except CheckpointError as error:
            raise CheckpointError(f"{self._files.stored(f'{prefix}.weight').file}: {error}") from None

    def tiles(self, prefix: str, *, threads: int | None = None) -> Compressed:
        """The weight of a fused linear or an own embedding, mapped from the file, or made of its entropy-coded form.

        threads: of the codec, all cores if None. Raises BitstreamError for a damaged index, and for damaged codes of
        the entropy-coded form. Mapped tiles are not touched: a damaged one is found where it is used.
        """
        stored = self._stored(prefix)
        with naming_damage(self._files.stored(f"{prefix}.weight").file, prefix):
            if isinstance(stored, EntropyCoded):
                return codec.encode(codec.decode_entropy(stored, threads=threads), threads=threads)
            codec.check_index(stored)
        return stored

    def holds_tiles(self, prefix: str) -> bool:
        """Return True if the weight of a compressed module is stored as tiles, False for the entropy-coded form."""
        return isinstance(self._stored(prefix), Compressed)

    def matrix(self, prefix: str, *, threads: int | None = None) -> tuple[NDArray[np.int8], int]:
        """The decoded weight of a fused linear or an own embedding, int8 [n, k], and its bytes in the file.

        threads, and errors: as of `tiles`.
        """
        stored = self._stored(prefix)
        with naming_damage(self._files.stored(f"{prefix}.weight").file, prefix):
            decode = codec.decode_entropy if isinstance(stored, EntropyCoded) else codec.decode
            decoded = decode(stored, threads=threads)  # type: ignore[arg-type]
        return decoded, stored.nbytes

    def compressed_embedding(self, *, threads: int | None = None) -> CompressedEmbedding:
        """The rank's rows of a compressed embedding; errors as of `tiles`."""
        return CompressedEmbedding(self.tiles(EMBEDDING, threads=threads), self.embedding_scale())

    def embedding_scale(self) -> Tensor:
        """The weight scales of the rank's rows of a compressed embedding. Raises CheckpointError."""
        try:
            return check_weight_scale(self._files.tensor(f"{EMBEDDING}.weight_scale"))
        except CheckpointError as error:
            raise CheckpointError(f"{self._files.stored(f'{EMBEDDING}.weight').file}: {error}") from None

    def float_tensor(self, name: str) -> Tensor:
        """The rank's share of a float tensor, by its fused name, mapped from the file."""
        if self.types.get(name) != FLOAT:
            raise CheckpointError(f"{self._files.path}: {name} is no float tensor of this part")
        return self._files.tensor(name)

    def inventory(self) -> list[tuple[str, Stored]]:
        """Type and header of each tensor."""
        return [(kind, self._files.stored(name)) for name, kind in self.types.items()]

    def files(self) -> list[Path]:
        return self._files.files()

    def _refuse_closed(self) -> None:
        """Raise BitstreamError for a part of the vendor's compressor, whose names may be those of its own engine."""
        for name in self._files:
            stored = self._files.stored(name)
            if not name.endswith(".info") or stored.dtype != torch.int64 or tuple(stored.shape) != (5,):
                continue
            if int(self._files.tensor(name)[4]) == VENDORS_FORM or name.startswith(VENDORS_LAYERS):
                raise closed_bitstream(self._files.stored(name).file, name.removesuffix(".info"))

    def _check_embedding(self, rows: int, hidden: int) -> None:
        if self.shares_table:
            return
        self._files.stored(f"{EMBEDDING}.weight")
        if self.description.require(f"{EMBEDDING}.weight", (FLOAT, W8A8SC)) == FLOAT:
            self._table.add_float(f"{EMBEDDING}.weight", (rows, hidden))
            return
        self._check_compressed(EMBEDDING, rows, hidden)
        self._table.add_weight_scale(EMBEDDING, rows)
        if self.tied:
            raise tied_to_integers(self._files.path)

    def _check_linear(self, prefix: str, n: int, k: int) -> None:
        self._files.stored(f"{prefix}.weight")
        if self.description.require(f"{prefix}.weight", (FLOAT, W8A8SC)) == FLOAT:
            self._table.add_float(f"{prefix}.weight", (n, k))
            biased = not self._architecture.biased.isdisjoint(group_of(prefix)[1].members)
            if biased or (f"{prefix}.bias" in self._files and prefix != HEAD.name):
                self._table.add_float(f"{prefix}.bias", (n,))
            return
        kind = self.description.require(f"{prefix}.input_scale", (W8A8S, W8A8SC, W8A8S_DYNAMIC, W8A8_DYNAMIC))
        kind = W8A8S if kind == W8A8SC else kind
        self._table.add_scales(prefix, n, kind, sums=is_dynamic(self.activations, kind))
        self._check_compressed(prefix, n, k)

    def _check_compressed(self, prefix: str, n: int, k: int) -> None:
        for name in COMPRESSED:
            self.description.require(f"{prefix}.{name}", (W8A8SC,))
            self.types[f"{prefix}.{name}"] = W8A8SC
        self._files.expect(f"{prefix}.info", (5,), (torch.int64,))
        for name in ("weight", "index"):
            stored = self._files.stored(f"{prefix}.{name}")
            self._files.expect(f"{prefix}.{name}", (max(1, stored.nbytes),), (torch.int8,))
        weight = self._stored(prefix)
        version = int(weight.info[4])
        if version == RESIDENT_FORM:
            raise CheckpointError(
                f"{self._files.stored(f'{prefix}.info').file}: {prefix} is in a form for memory, not for files; "
                "compress it from the W8A8S directory"
            )
        if isinstance(weight, Compressed) and version != BITSTREAM_V1:
            with naming_damage(self._files.stored(f"{prefix}.weight").file, prefix):
                codec.check_index(weight)  # says whose bitstream it is
        if (weight.n, weight.k) != (n, k):
            raise CheckpointError(
                f"{self._files.stored(f'{prefix}.info').file}: {prefix}.info says [{weight.n}, {weight.k}]; "
                f"config.json calls for [{n}, {k}] in this part"
            )

    def _stored(self, prefix: str) -> Compressed | EntropyCoded:
        weight, index, info = (self._files.tensor(f"{prefix}.{name}").numpy() for name in COMPRESSED)
        kind = EntropyCoded if int(info[4]) == BITSTREAM_V2 else Compressed
        return kind(weight=weight, index=index, info=info)
