"""Speed of `y = linear(x, compressed weight)` beside uncompressed products, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tilepress import codec
from tilepress.bench.codec import gaussian_weights
from tilepress.bench.machine import GIGABYTE, Machine
from tilepress.bench.peers import Int8Matrix, Peer, available_peers
from tilepress.bench.rounds import SLICE_SECONDS, Contender, measure_in_turn
from tilepress.engines.residency import takes_fast_form
from tilepress.kernels import linear

SHAPES = ((4096, 4096), (12288, 4096), (4096, 12288), (6144, 4096))  # of Qwen3-8B, [n, k]
BATCHES = (1, 8, 16, 512)
QUICK: dict[str, Any] = {"shapes": SHAPES[:1], "batches": (1, 8), "ring_bytes": 1 << 28}  # eight times our cache
FULL: dict[str, Any] = {"shapes": SHAPES, "batches": BATCHES, "ring_bytes": GIGABYTE}
DEVIATION = 2.0
OURS = "tilepress"
_BATCH_1 = "tilepress, batch 1"


@dataclass(frozen=True)
class Speed:
    """The speed of one contender. seconds: median time of one call.

    gigabytes_per_second: of the weights that it reads, compressed ones for ours. of_bandwidth: the same as a share of
    what as many threads read from memory.
    """

    name: str
    kind: str
    seconds: float
    gigaweights_per_second: float
    gigabytes_per_second: float
    of_bandwidth: float


@dataclass(frozen=True)
class Row:
    """One shape, batch and number of threads.

    times_faster: kind of peer -> our speed over that of the fastest peer of this kind. times_batch_1: time of our call
    over that of our call with one token, in the same rounds.
    """

    n: int
    k: int
    batch: int
    threads: int
    bits_per_weight: float
    ours: Speed
    peers: list[Speed]
    times_faster: dict[str, float]
    times_batch_1: float

    def fastest_peers(self) -> list[Speed]:
        """Return the fastest peer of each kind."""
        return [min((peer for peer in self.peers if peer.kind == kind), key=_seconds) for kind in self.times_faster]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    machine: Machine,
    *,
    shapes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    ring_bytes: int,
    repeats: int,
    slice_seconds: float = SLICE_SECONDS,
) -> Iterator[Row]:
    """Yield rows as they are measured, for each number of threads in `machine.bandwidth`.

    Every contender visits copies of its weights in turn, ring_bytes in all. Nine times ring_bytes of memory is needed.
    """
    peers = available_peers()
    before = torch.get_num_threads()
    try:
        for n, k in shapes:
            matrix = gaussian_weights(n, k, DEVIATION)
            for batch in batches:
                contenders = _ours(matrix, batch, ring_bytes)
                contenders += [peer.contender(matrix, batch, ring_bytes) for peer in peers]
                for threads in machine.bandwidth:
                    torch.set_num_threads(threads)
                    seconds = measure_in_turn(contenders, repeats=repeats, slice_seconds=slice_seconds)
                    yield _row(matrix, batch, threads, contenders, seconds, peers, machine)
                del contenders
    finally:
        torch.set_num_threads(before)


def _ours(matrix: Int8Matrix, batch: int, ring_bytes: int) -> list[Contender]:
    """Return the operator on a batch and, for comparison, on one token, both on the same copies.

    The weight is in the form that engines keep it in on this machine.
    """
    n, k = matrix.shape
    compressed = codec.encode_resident(matrix) if takes_fast_form(None) else codec.encode(matrix)
    weight, index, info = (torch.from_numpy(part) for part in (compressed.weight, compressed.index, compressed.info))
    rest = (
        torch.tensor([0.05]),
        torch.tensor([3], dtype=torch.int32),
        torch.full((n,), 1e-3),
        torch.zeros(n, dtype=torch.int32),
    )
    copies = [(weight.clone(), index.clone()) for _ in range(-(-ring_bytes // compressed.nbytes))]
    x = torch.randn(batch, k)

    def calls(x: torch.Tensor) -> list[Callable[[], object]]:
        return [lambda w=w, i=i: linear(x, w, i, info, *rest) for w, i in copies]  # type: ignore[misc]

    ours = [Contender(OURS, calls(x), compressed.nbytes)]
    return ours if batch == 1 else [*ours, Contender(_BATCH_1, calls(x[:1]), compressed.nbytes)]


def _row(
    matrix: Int8Matrix,
    batch: int,
    threads: int,
    contenders: Sequence[Contender],
    seconds: dict[str, float],
    peers: Sequence[Peer],
    machine: Machine,
) -> Row:
    kinds = {OURS: OURS} | {peer.name: peer.kind for peer in peers}
    speeds = {
        contender.name: Speed(
            name=contender.name,
            kind=kinds[contender.name],
            seconds=seconds[contender.name],
            gigaweights_per_second=matrix.size / seconds[contender.name] / 1e9,
            gigabytes_per_second=contender.nbytes / seconds[contender.name] / 1e9,
            of_bandwidth=contender.nbytes / seconds[contender.name] / machine.bandwidth[threads],
        )
        for contender in contenders
        if contender.name in kinds
    }
    ours = speeds.pop(OURS)
    fastest: dict[str, float] = {}
    for speed in speeds.values():
        fastest[speed.kind] = min(speed.seconds, fastest.get(speed.kind, speed.seconds))
    return Row(
        n=matrix.shape[0],
        k=matrix.shape[1],
        batch=batch,
        threads=threads,
        bits_per_weight=8 * contenders[0].nbytes / matrix.size,
        ours=ours,
        peers=list(speeds.values()),
        times_faster={kind: peer / ours.seconds for kind, peer in fastest.items()},
        times_batch_1=ours.seconds / seconds.get(_BATCH_1, ours.seconds),
    )


def _seconds(speed: Speed) -> float:
    return speed.seconds
