"""Speed of compressed products on a CUDA device beside dense ones, in one run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from tilepress import codec
from tilepress.bench import dense_int8_gpu
from tilepress.bench.codec import gaussian_weights
from tilepress.kernels.triton.decode import decode_rows, scratch_memory
from tilepress.kernels.triton.fast_form.form import to_device_form
from tilepress.kernels.triton.linear import linear
from tilepress.kernels.triton.matrix import check_matrix

Call = Callable[[], object]

WARM_UP = 2

# [n, k] of Qwen3-8B, then of Qwen3-32B: q, k and v; gate and up; down.
SHAPES = ((6144, 4096), (24576, 4096), (4096, 12288), (10240, 5120), (51200, 5120), (5120, 25600))
BATCHES = (1, 16, 2048)
RING_BYTES = 1 << 29  # ten times the second-level cache of an H100
COPY_BYTES = 1 << 30
DEVIATION = 2.0

OURS, STORED, DECODE = "tilepress", "tilepress, weights as stored", "tilepress, decode to int8"
BFLOAT16, TORCH_INT8, TRITON_INT8 = "cuBLAS bfloat16", "torch._int_mm", "dense int8 in Triton"
DENSE_INT8 = (TORCH_INT8, TRITON_INT8)


@dataclass(frozen=True)
class Device:
    """A CUDA device. bandwidth: bytes a second that a copy reads and writes."""

    name: str
    capability: str
    torch: str
    triton: str
    python: str
    bandwidth: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Figure:
    """seconds: median time of one call. of_roofline: time of a copy of the bytes that a call moves, over seconds."""

    name: str
    seconds: float
    teraweights_per_second: float
    of_roofline: float


@dataclass(frozen=True)
class Row:
    """One shape and batch; batch 0 is decoding alone.

    times_bfloat16, times_int8: our speed over that of cuBLAS and of the fastest dense int8 product; None for decoding.
    """

    n: int
    k: int
    batch: int
    bits_per_weight: float
    ours: Figure
    peers: list[Figure]
    times_bfloat16: float | None
    times_int8: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_device(device: torch.device, nbytes: int = COPY_BYTES, repeats: int = 7) -> Device:
    """The device, with its bandwidth measured."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = seconds_a_call([lambda: target.copy_(source)], repeats, device)
    on_gpu = device.type == "cuda"
    return Device(
        name=torch.cuda.get_device_name(device) if on_gpu else "Triton's interpreter: figures mean nothing",
        capability=".".join(map(str, torch.cuda.get_device_capability(device))) if on_gpu else "none",
        torch=torch.__version__,
        triton=triton.__version__,
        python=platform.python_version(),
        bandwidth=2 * nbytes / seconds,
    )


def measure(
    device: torch.device,
    bandwidth: float,
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    batches: Sequence[int] = BATCHES,
    ring_bytes: int = RING_BYTES,
    repeats: int = 20,
) -> Iterator[Row]:
    """Yield rows as they are measured. Contenders visit ring_bytes of copies of their weights in turn, at least two."""
    for n, k in shapes:
        weights = _Weights(n, k, device, ring_bytes)
        yield _row(weights, 0, [weights.decode()], bandwidth, repeats)
        for batch in batches:
            yield _row(weights, batch, weights.products(batch), bandwidth, repeats)


@dataclass(frozen=True)
class _Contender:
    """nbytes: bytes that one call has to read and write."""

    name: str
    calls: list[Call]
    nbytes: int


class _Weights:
    """One matrix, compressed and dense, in as many copies as fill the ring."""

    def __init__(self, n: int, k: int, device: torch.device, ring_bytes: int) -> None:
        matrix = gaussian_weights(n, k, DEVIATION)
        self.n, self.k, self.device, self._ring_bytes = n, k, device, ring_bytes
        tiles = codec.encode(matrix)
        self._tiles = [torch.from_numpy(part).to(device) for part in (tiles.weight, tiles.index, tiles.info)]
        fast = to_device_form(codec.encode_resident(matrix))
        self._fast = [torch.from_numpy(part).to(device) for part in fast]
        self._dense = torch.from_numpy(matrix).to(device)

    @property
    def compressed_bytes(self) -> int:
        """Bytes of the form that weights are kept in unless asked otherwise."""
        return _size(self._fast)

    def decode(self) -> _Contender:
        calls: list[Call] = []
        for weight, index, info in self._copied(self._tiles):
            matrix = check_matrix(weight, index, info, self.n, self.k)
            out = torch.empty((self.n, -(-self.k // 32) * 32), dtype=torch.int8, device=self.device)
            damaged = torch.zeros(matrix.fractal_rows, dtype=torch.int32, device=self.device)
            arguments = (matrix, out, damaged, scratch_memory(matrix), 0)
            calls.append(lambda a=arguments: decode_rows(*a))  # type: ignore[misc]
        return _Contender(DECODE, calls, _size(self._tiles) + self.n * self.k)

    def products(self, batch: int) -> list[_Contender]:
        """Return the contenders, ours first."""
        x = torch.randn((batch, self.k), device=self.device).to(torch.bfloat16)
        moved = 2 * batch * (self.n + self.k)
        contenders = [
            _Contender(name, self._ours(x, form), _size(form) + moved)
            for name, form in ((OURS, self._fast), (STORED, self._tiles))
        ]
        wide = [self._dense.to(torch.bfloat16).clone() for _ in range(self._copies(2 * self.n * self.k))]
        calls: list[Call] = [lambda w=w: torch.nn.functional.linear(x, w) for w in wide]  # type: ignore[misc]
        contenders.append(_Contender(BFLOAT16, calls, 2 * self.n * self.k + moved))
        return contenders + self._dense_int8(batch)

    def _ours(self, x: Tensor, form: list[Tensor]) -> list[Call]:
        rest = (
            torch.tensor([0.05], device=self.device),
            torch.tensor([3], dtype=torch.int32, device=self.device),
            torch.full((self.n,), 1e-3, device=self.device),
            torch.zeros(self.n, dtype=torch.int32, device=self.device),
            torch.empty(0, dtype=torch.int32, device=self.device),
        )
        return [lambda c=copy: linear(x, *c, *rest) for copy in self._copied(form)]  # type: ignore[misc, call-arg]

    def _dense_int8(self, batch: int) -> list[_Contender]:
        """Return int8 products to int32 sums: unlike ours, they are spared quantizing, scales and bias."""
        copies = [self._dense.clone() for _ in range(self._copies(self.n * self.k))]
        nbytes = self.n * self.k + batch * (self.k + 4 * self.n)
        # torch._int_mm takes 17 tokens or more.
        x = torch.ones((max(batch, 32), self.k), dtype=torch.int8, device=self.device)
        calls: list[Call] = [lambda w=w: torch._int_mm(x, w.T) for w in copies]  # type: ignore[misc]
        contenders = [_Contender(TORCH_INT8, calls, nbytes)]
        if batch <= dense_int8_gpu.TOKENS:
            few = x[: dense_int8_gpu.TOKENS]
            calls = [lambda w=w: dense_int8_gpu.multiply(few, w) for w in copies]  # type: ignore[misc]
            contenders.append(_Contender(TRITON_INT8, calls, nbytes))
        return contenders

    def _copies(self, nbytes: int) -> int:
        return max(2, -(-self._ring_bytes // nbytes))

    def _copied(self, form: list[Tensor]) -> list[list[Tensor]]:
        return [[part.clone() for part in form] for _ in range(self._copies(_size(form)))]


def _size(form: list[Tensor]) -> int:
    return sum(part.nbytes for part in form)


def _row(weights: _Weights, batch: int, contenders: list[_Contender], bandwidth: float, repeats: int) -> Row:
    size = weights.n * weights.k
    figures = []
    for contender in contenders:
        seconds = seconds_a_call(contender.calls, repeats, weights.device)
        figures.append(Figure(contender.name, seconds, size / seconds / 1e12, contender.nbytes / bandwidth / seconds))
    ours, peers = figures[0], figures[1:]
    int8 = [peer.seconds for peer in peers if peer.name in DENSE_INT8]
    bfloat16 = [peer.seconds for peer in peers if peer.name == BFLOAT16]
    return Row(
        n=weights.n,
        k=weights.k,
        batch=batch,
        bits_per_weight=8 * weights.compressed_bytes / size,
        ours=ours,
        peers=peers,
        times_bfloat16=min(bfloat16) / ours.seconds if bfloat16 else None,
        times_int8=min(int8) / ours.seconds if int8 else None,
    )


def seconds_a_call(calls: Sequence[Call], repeats: int, device: torch.device) -> float:
    """Return the time of one call: the median of `repeats` rounds in which each of `calls` runs once.

    On a CUDA device the round is one CUDA graph, timed by events; on the CPU, where Triton interprets, it only shows
    that everything runs.
    """
    for call in calls[:WARM_UP]:
        call()
    play = _recorded(calls) if device.type == "cuda" else lambda: [call() for call in calls]
    elapsed = _by_events if device.type == "cuda" else _by_clock
    return statistics.median(elapsed(play) for _ in range(repeats)) / len(calls)


def _recorded(calls: Sequence[Call]) -> Call:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return graph.replay


def _by_events(play: Call) -> float:
    new_event: Any = torch.cuda.Event
    begin, end = new_event(enable_timing=True), new_event(enable_timing=True)
    begin.record()
    play()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _by_clock(play: Call) -> float:
    begin = time.perf_counter()
    play()
    return time.perf_counter() - begin
