"""Loading every tensor of a rank's shard into the model that vLLM has built, with a check that none is left out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.models.utils import PPMissingLayer

from tilepress.checkpoint import EMBEDDING, CompressedEmbedding
from tilepress.engines.biased_norm import BiasedNorm
from tilepress.engines.operands import converted, embedding_operands, for_cuda, linear_operands
from tilepress.engines.vllm.config import vllm_name
from tilepress.engines.vllm.shard import ModelShard
from tilepress.errors import CheckpointError, UsageError
from tilepress.models.architecture import HEAD


def place(model: nn.Module, share: ModelShard) -> None:
    """Assign every tensor of `share`, except those of layers that another pipeline stage has.

    On the CPU tiles stay where they are, in the mapped file. Raises CheckpointError for a tensor that is
    missing, that the model has no place for, or that has another shape; UsageError for values that the model's type
    cannot hold and for a vocabulary that vLLM splits in another way.
    """
    loader = _WeightLoader(model, share)
    rank = share.shard
    for module in filter(loader.is_here, rank.modules()):
        if not rank.is_quantized(module):
            for entry in rank.entries(module):
                loader.float_tensor(entry.name, entry.tensor)
        elif module == EMBEDDING:
            loader.embedding(rank.compressed_embedding())
        else:
            loader.linear(module)
    if share.shares_table and f"{EMBEDDING}.weight" in loader.missing:  # the head is in another pipeline stage
        loader.embedding(rank.compressed_embedding())
    if loader.missing:
        raise CheckpointError(f"{share.path}: tensor {min(loader.missing)} is missing; get the whole directory again")


class _WeightLoader:
    """missing: names of the model's parameters that have not been assigned yet."""

    def __init__(self, model: nn.Module, share: ModelShard) -> None:
        self._model, self._shard = model, share
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self.missing = {name for name, _ in model.named_parameters()}

    def is_here(self, prefix: str) -> bool:
        """Return True if this pipeline stage has the layer of `prefix`."""
        names = vllm_name(prefix).split(".")
        above = (".".join(names[:count]) for count in range(1, len(names) + 1))
        return not any(isinstance(self._modules.get(name), PPMissingLayer) for name in above)

    def linear(self, prefix: str) -> None:
        """Fill a compressed linear, and the embedding too where it has the same table."""
        stored = self._shard.shard.compressed_linear(prefix)
        name = vllm_name(prefix)
        layer = self._compressed(prefix, stored.weight.shape)
        layer.bias = None  # vLLM may have made one: ours is in quant_bias
        self._assign(name, layer, _for_device_of(layer, linear_operands(stored)))
        self.missing -= {f"{name}.weight_sums", f"{name}.bias"}
        if prefix == HEAD.name and self._shard.shares_table:
            self.embedding(CompressedEmbedding.of_head(stored), table=layer)

    def embedding(self, stored: CompressedEmbedding, table: nn.Module | None = None) -> None:
        """Fill the embedding. table: the layer that has the same bytes on the device, if any."""
        layer, operands = self._compressed(EMBEDDING, stored.weight.shape), embedding_operands(stored)
        if table is None:
            operands = _for_device_of(layer, operands)
        else:
            operands |= {leaf: table.get_parameter(leaf).data for leaf in ("weight", "index", "info")}
        self._assign(EMBEDDING, layer, operands)

    def float_tensor(self, name: str, stored: Tensor) -> None:
        """Fill a parameter, or add it where it is a bias that the architecture does not have."""
        owner, _, leaf = vllm_name(name).rpartition(".")
        layer = self._modules.get(owner)
        parameters = {} if layer is None else dict(layer.named_parameters(recurse=False))
        if layer is None or (leaf not in parameters and (leaf != "bias" or "weight" not in parameters)):
            raise self._no_place(name)
        like = parameters.get(leaf, parameters["weight"])
        tensor = converted(stored, like.dtype, f"{self._shard.path}: {name}")
        if isinstance(layer, VocabParallelEmbedding):
            tensor = self._padded(layer, name, tensor)
        self._check_shape(name, tensor.shape, like.shape if leaf in parameters else like.shape[:1])
        if leaf in parameters:
            like.data = tensor.to(like.device)
            self.missing.discard(f"{owner}.{leaf}")
        elif isinstance(layer, LinearBase):
            layer.bias = nn.Parameter(tensor.to(like.device), requires_grad=False)
        elif bool(tensor.any()):
            self._model.set_submodule(owner, BiasedNorm(layer, tensor.to(like.device)))

    def _compressed(self, prefix: str, shape: tuple[int, int]) -> Any:
        """Return the layer for a compressed weight that is stored with this shape."""
        layer: Any = self._modules.get(vllm_name(prefix))
        if not hasattr(layer, "compressed_shape"):
            raise self._no_place(f"{prefix}.weight")
        expected = layer.compressed_shape
        if isinstance(layer, VocabParallelEmbedding):
            self._check_rows(layer, prefix, shape[0])
            expected = (shape[0], expected[1])
        self._check_shape(f"{prefix}.weight", shape, expected)
        return layer

    def _assign(self, name: str, layer: nn.Module, tensors: dict[str, Tensor]) -> None:
        for leaf, tensor in tensors.items():
            parameter = layer.get_parameter(leaf)
            parameter.data = tensor.to(parameter.device)
            self.missing.discard(f"{name}.{leaf}")

    def _padded(self, layer: Any, name: str, table: Tensor) -> Tensor:
        """Return the rank's rows of a table, followed by zeros where vLLM rounds their number up."""
        self._check_rows(layer, name, table.shape[0])
        padding = layer.num_embeddings_per_partition - table.shape[0]
        return table if padding == 0 else nn.functional.pad(table, (0, 0, 0, padding))

    def _check_rows(self, layer: Any, name: str, rows: int) -> None:
        expected = layer.num_org_embeddings_per_partition
        if rows != expected and layer.tp_size > 1:
            raise UsageError(
                f"{self._shard.path}: {name} has {rows} rows in this rank's share, and vLLM takes {expected} of them, "
                f"as it rounds a vocabulary of {layer.org_vocab_size} up to {layer.org_vocab_size_padded} before it "
                "splits it; serve the model with --tensor-parallel-size 1"
            )
        self._check_shape(name, (rows,), (expected,))

    def _check_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(found) != tuple(expected):
            raise CheckpointError(
                f"{self._shard.path}: {name} is {list(found)}; config.json asks for {list(expected)} in this rank"
            )

    def _no_place(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"{self._shard.path}: the model has no place for tensor {name}; config and weights do not match"
        )


def _for_device_of(layer: nn.Module, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    return for_cuda(operands) if layer.get_parameter("weight").device.type == "cuda" else operands
