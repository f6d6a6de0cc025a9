"""The shard of a quantized model that one tensor-parallel rank loads, whatever number the directory was made for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tilepress import codec
from tilepress.checkpoint.description import FLOAT, W8A8S, W8A8SC
from tilepress.checkpoint.sharding.split import check_tp, part_shape
from tilepress.checkpoint.tensors.compressed_linear import CompressedLinear
from tilepress.checkpoint.tensors.embedding import EMBEDDING, CompressedEmbedding
from tilepress.checkpoint.tensors.quantized_linear import pack_scales
from tilepress.codec import ENTROPY, TILES, Compressed, EntropyCoded
from tilepress.models.architecture import HEAD, Architecture, ModelShape, fused_groups, group_of, norm_shapes

# The last parts of the names of a module's tensors.
_COMPRESSED = ("weight", "index", "info")
_LINEAR = (*_COMPRESSED, "input_scale", "input_offset", "deq_scale", "quant_bias", "weight_sums")
_TABLE = (*_COMPRESSED, "weight_scale")
_FLOAT = ("weight", "bias")


class Entry(NamedTuple):
    """One tensor of a part and its type in the description: FLOAT, W8A8S, W8A8S_DYNAMIC or W8A8SC."""

    name: str
    type: str
    tensor: Tensor


class Source(Protocol):
    """The interface that W8A8S and W8A8SC directories share. shape.tied: neither head nor shared table is stored."""

    path: Path
    architecture: Architecture
    shape: ModelShape
    shares_table: bool

    @property
    def dtype(self) -> str: ...
    def fused_groups(self) -> list[str]: ...
    def is_quantized(self, prefix: str) -> bool: ...
    def release(self) -> None: ...


class Shard(ABC):
    """The tensors that rank `rank` of `tp` holds: those of its part in a W8A8SC directory made for `tp`.

    They are read, cut and encoded when they are asked for, one module at a time. A module is a fused linear such as
    "model.layers.0.self_attn.query_key_value", the embedding, the head or a norm.

    threads: threads of the codec, all cores if None. tiles: number of tiles of all weights asked for so far; encoded:
    how many of them the directory did not hold ready. fast: give linears in the form for memory
    (`codec.encode_resident`), which `entries` must not write.

    Raises CheckpointError, with the sizes that work, where `tp` does not divide the model, and ValueError where there
    is no such rank.
    """

    def __init__(self, source: Source, rank: int, tp: int, threads: int | None, fast: bool) -> None:
        check_tp(source.shape, tp, source.path)
        if not 0 <= rank < tp:
            raise ValueError(f"no rank {rank} of {tp}")
        self.rank, self.tp, self.threads, self.fast = rank, tp, threads, fast
        self.tiles = self.encoded = 0
        self._source = source
        self._quantized = set(source.fused_groups())
        if source.is_quantized(EMBEDDING):
            self._quantized.add(EMBEDDING)

    def modules(self) -> list[str]:
        """Prefixes of all modules that hold tensors; a table that head and embedding share is the head's."""
        source = self._source
        tables = [] if source.shares_table else [EMBEDDING]
        return [*fused_groups(source.shape), *tables, *norm_shapes(source.architecture, source.shape)]

    def is_quantized(self, module: str) -> bool:
        """Return True if the module's weight is compressed."""
        return module in self._quantized

    def tensors(self, wanted: Callable[[str], bool] = lambda module: True) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of each tensor of the part; names, dtypes and shapes are those of docs/reference/formats.md.

        Only modules for whose prefix `wanted` is true are read: those of a pipeline stage, for example. Raises
        CheckpointError and BitstreamError where the directory is damaged.
        """
        for module in self.modules():
            if wanted(module):
                yield from ((entry.name, entry.tensor) for entry in self.entries(module))

    def entries(self, module: str, coding: str = TILES) -> list[Entry]:
        """The tensors of one module; errors as of `tensors`. coding: of the weight, "tiles" or "entropy"."""
        if module not in self._quantized:
            names = [name for name in self.possible_names(module) if self._holds_float(name)]
            return [Entry(name, FLOAT, self.float_tensor(name).contiguous()) for name in names]
        if module == EMBEDDING:
            embedding = self.compressed_embedding()
            scale = Entry(f"{module}.weight_scale", W8A8S, embedding.weight_scale.contiguous())
            return [*self._compressed(module, embedding.weight, coding), scale]
        linear = self.compressed_linear(module)
        scales = pack_scales(module, linear, self._source.dtype, wide_scale=True)
        if linear.weight_sums is not None:
            scales[f"{module}.weight_sums"] = linear.weight_sums
        plain = [Entry(name, linear.kind, tensor.contiguous()) for name, tensor in scales.items()]
        return [*self._compressed(module, linear.weight, coding), *plain]

    def possible_names(self, module: str) -> list[str]:
        """Return the names of the module's tensors, optional ones included."""
        quantized = _TABLE if module == EMBEDDING else _LINEAR
        return [f"{module}.{leaf}" for leaf in (quantized if module in self._quantized else _FLOAT)]

    def plain_bytes(self, module: str) -> int:
        """Return the bytes of the module's weight, int8 or 16-bit, uncompressed; 0 for a norm, which is small."""
        try:
            group = HEAD if module == EMBEDDING else group_of(module)[1]
        except KeyError:
            return 0
        n, k = part_shape(self._source.shape, group, self.tp, self.rank)
        return n * k if module in self._quantized else 2 * n * k

    def release(self) -> None:
        """Give back the memory of the pages that were read of the directory's files: see `release_pages`."""
        self._source.release()

    def compressed_embedding(self) -> CompressedEmbedding:
        """Return the rank's rows of a quantized embedding, or of the table that it shares with the head."""
        if self._source.shares_table:
            return CompressedEmbedding.of_head(self.compressed_linear(HEAD.name))
        return self._own_embedding()

    def _compressed(self, prefix: str, tiles: Compressed, coding: str) -> list[Entry]:
        weight: Compressed | EntropyCoded = tiles
        if coding == ENTROPY:
            matrix = codec.decode(tiles, threads=self.threads)
            weight = codec.encode_entropy(matrix, threads=self.threads)
        fields = {"weight": weight.weight, "index": weight.index, "info": weight.info}
        return [Entry(f"{prefix}.{name}", W8A8SC, torch.from_numpy(array)) for name, array in fields.items()]

    @abstractmethod
    def compressed_linear(self, prefix: str) -> CompressedLinear:
        """The rank's share of a quantized fused linear or head.

        Raises BitstreamError where compressed bytes are damaged (tiles that move as bytes are checked where they are
        used), and CheckpointError where the parts of a directory disagree.
        """

    @abstractmethod
    def float_tensor(self, name: str) -> Tensor:
        """The rank's share of a float tensor in its stored dtype, by its fused name; not to be written to.

        Raises CheckpointError where there is no such float tensor.
        """

    @abstractmethod
    def _own_embedding(self) -> CompressedEmbedding: ...

    @abstractmethod
    def _holds_float(self, name: str) -> bool: ...
