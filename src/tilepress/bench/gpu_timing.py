"""Timing calls on a CUDA device, without what the host takes to start them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Call = Callable[[], object]

WARM_UP = 2


def seconds_a_call(calls: Sequence[Call], repeats: int, device: torch.device) -> float:
    """The median of so many rounds in which each of `calls` runs once.

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
