"""Statistics of the inputs of a layer's linears over the calibration tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tilepress.distributed.communicator import ALONE, Communicator
from tilepress.models.layer_inputs import FEEDS
from tilepress.quantize.statistics.triangular import add_gram, mirror

FEWER = 512
# Rows of a Hessian that are processed at a time: one of 25600 columns takes 2.6 GB, and a copy as much.
BLOCK = 1024


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of one linear input x of k columns.

    hessian: float32 [k, k], E[x xᵀ]. mean: float32 [k]. low, high: float32 [k], extremes of each column.
    rows: float32 [m, k], a random sample of tokens, enough to count the few that overflow a range.
    """

    hessian: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    rows: Tensor

    def largest(self) -> Tensor:
        """max |x_j|, float32 [k]."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def fewer_rows(self) -> Tensor:
        """Some of the rows, at least 512 where there are that many: enough to compare mean errors."""
        return self.rows[:: max(1, len(self.rows) // FEWER)]

    def divided(self, scales: Tensor) -> InputStatistics:
        """Return the statistics of x / scales; scales float32 [k], positive. The Hessian is divided in place."""
        for rows, of_rows in zip(torch.split(self.hessian, BLOCK), torch.split(scales, BLOCK), strict=True):
            rows.div_(torch.outer(of_rows, scales))
        return InputStatistics(
            self.hessian,
            self.mean / scales,
            self.low / scales,
            self.high / scales,
            self.rows / scales,
        )


class StatisticsCollector:
    """Gathers InputStatistics of a decoder layer through hooks while it runs. A context manager.

    rows_per_batch tokens of each batch are kept as the sample, drawn with `generator` (a CPU generator). Each rank runs
    its share of the batches and skips those of the others, so that all generators draw the same.
    """

    def __init__(self, layer: nn.Module, rows_per_batch: int, generator: torch.Generator) -> None:
        self._layer = layer
        self._rows_per_batch = rows_per_batch
        self._generator = generator
        self._sums: dict[str, InputSums] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> StatisticsCollector:
        for feed in FEEDS:
            module = self._layer.get_submodule(feed.consumers[0])
            weight = module.get_parameter("weight")
            self._sums[feed.name] = InputSums(weight.shape[1], weight)
            self._handles.append(module.register_forward_pre_hook(self._hook(feed.name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def observe(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            self._sums[name].add(x, x[self._picked(len(x)).to(x.device)])

        return observe

    def _picked(self, tokens: int) -> Tensor:
        return torch.randperm(tokens, generator=self._generator)[: self._rows_per_batch]

    def skip(self, batches: Iterable[int]) -> None:
        """Draw for the batches of another rank. batches: the tokens of each batch."""
        for tokens in batches:
            for _ in FEEDS:
                self._picked(tokens)

    def result(self, ranks: Communicator = ALONE) -> dict[str, InputStatistics]:
        """Return the statistics by the names of FEEDS, over all ranks. The collector is empty afterwards."""
        sums, self._sums = self._sums, {}
        return {name: of_input.statistics(ranks) for name, of_input in sums.items()}


class InputSums:
    """Sums for `InputStatistics`, batch by batch, over inputs of k columns; dtype and device are those of `like`."""

    def __init__(self, k: int, like: Tensor) -> None:
        self.tokens = 0
        self.products, self.total = like.new_zeros(k, k), like.new_zeros(k)
        self.low, self.high = like.new_full((k,), torch.inf), like.new_full((k,), -torch.inf)
        self.rows = [like.new_empty(0, k)]

    def add(self, x: Tensor, rows: Tensor) -> None:
        """Add a batch. x: tokens [m, k]. rows: the tokens that are kept as the sample."""
        low, high = x.aminmax(dim=0)
        add_gram(self.products, x)
        self.total += x.sum(dim=0)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.tokens += len(x)
        self.rows.append(rows)

    def statistics(self, ranks: Communicator = ALONE) -> InputStatistics:
        """Return the statistics over all ranks, in the memory of the sums: nothing can be added any more."""
        tokens = int(ranks.add_up(torch.tensor(self.tokens)))
        return InputStatistics(
            mirror(ranks.add_up(self.products)).div_(tokens),
            ranks.add_up(self.total).div_(tokens),
            ranks.least(self.low),
            ranks.greatest(self.high),
            ranks.concatenated(torch.cat(self.rows)),
        )
