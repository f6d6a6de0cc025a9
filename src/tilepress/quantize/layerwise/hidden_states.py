"""Hidden states between two decoder layers: in a file of the work directory, and in memory where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from tilepress.distributed.communicator import ALONE, Communicator
from tilepress.quantize.resume import WorkDirectory

TOKENS_A_BATCH = 2048
# Where there are that many sequences: each rank takes some of the batches.
FEWEST_BATCHES = 8


class HiddenStates:
    """float32 [samples, length, hidden] in the file `name` of `work`, which is not changed once it is written.

    held: the same states in memory; where given, they are read from there.
    """

    def __init__(self, work: WorkDirectory, name: str, held: Tensor | None = None) -> None:
        self._name, self._held = name, held
        self._files = work.tensors(name)
        self.shape = self._files.stored(name).shape

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the sequences, each [1, length, hidden]."""
        return self.parts(1)

    def part(self, start: int, stop: int) -> Tensor:
        """Sequences [start, stop), on the CPU. Not to be written to."""
        return self._files.read(self._name, start, stop) if self._held is None else self._held[start:stop]

    def parts(self, count: int) -> Iterator[Tensor]:
        """Yield all sequences in order, `count` at a time."""
        for start in range(0, len(self), count):
            yield self.part(start, start + count)


def sequences_a_batch(samples: int, length: int) -> int:
    """The number of sequences, of `samples` with `length` tokens each, that go through a layer at a time."""
    return max(1, min(TOKENS_A_BATCH // length, samples // FEWEST_BATCHES))


def write_states(
    work: WorkDirectory, name: str, shape: Sequence[int], parts: Iterable[Tensor], held: Tensor | None
) -> HiddenStates:
    """Write the states in `parts`, on any device, to the file `name`, and to `held` [*shape] where given.

    `held` may be the memory that the parts are computed from: it is written to after each part. Raises CheckpointError
    where the disk is full.
    """

    def passing() -> Iterator[Tensor]:
        start = 0
        for part in parts:
            if held is not None:
                held[start : start + len(part)] = part
            start += len(part)
            yield part.cpu()

    work.stream(name, shape, passing())
    return HiddenStates(work, name, held)


def room_for(shape: Sequence[int], memory: int) -> Tensor | None:
    """Allocate float32 [*shape] for states, where they take no more than `memory` bytes; else return None."""
    return torch.empty(*shape) if 4 * torch.Size(shape).numel() <= memory else None


class Batches:
    """The batches of `samples` sequences of `length` tokens.

    sequences: per batch. share: the sequences of this rank, in whole batches. before, after: the tokens of each batch
    of the ranks before this one and after it.
    """

    def __init__(self, samples: int, length: int, ranks: Communicator) -> None:
        self.sequences = sequences_a_batch(samples, length)
        self.share = ranks.share(samples, self.sequences)
        starts = range(0, samples, self.sequences)
        tokens = [length * min(self.sequences, samples - start) for start in starts]
        self.before = tokens[: -(-self.share.start // self.sequences)]
        self.after = tokens[-(-self.share.stop // self.sequences) :]


class FinalStates:
    """Outputs of the last layer, before the final norm. share: those for this rank's sequences."""

    def __init__(self, share: HiddenStates, device: torch.device, ranks: Communicator = ALONE) -> None:
        self._share, self._device, self._ranks = share, device, ranks
        self._before, _ = ranks.others(len(share))

    def sequence(self, index: int) -> Tensor:
        """Return sequence `index` of all, [1, length, hidden], on the device. All ranks ask for the same one."""
        own = index - self._before
        inside = 0 <= own < len(self._share)
        rows = self._share.part(own, own + 1) if inside else torch.empty(0, *self._share.shape[1:])
        return self._ranks.concatenated(rows).to(self._device)

    def hand_over(self, sequences: Iterable[int]) -> None:
        """Send this rank's share of `sequences`, which another rank asks for in this order."""
        for index in sequences:
            self.sequence(index)
