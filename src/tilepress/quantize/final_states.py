"""What the float model's last layer gives, of which each rank has some sequences."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tilepress.quantize.hidden_states import HiddenStates
from tilepress.quantize.ranks import ALONE, Ranks


class FinalStates:
    """share: what the last layer gives of this rank's sequences, before the final norm."""

    def __init__(self, share: HiddenStates, device: torch.device, ranks: Ranks = ALONE) -> None:
        self._share, self._device, self._ranks = share, device, ranks
        self._before, _ = ranks.others(len(share))

    def sequence(self, index: int) -> Tensor:
        """[1, length, hidden] of sequence `index` of all, on the device of each rank; all ask for the same one."""
        own = index - self._before
        inside = 0 <= own < len(self._share)
        rows = self._share.part(own, own + 1) if inside else torch.empty(0, *self._share.shape[1:])
        return self._ranks.concatenated(rows).to(self._device)

    def hand_over(self, sequences: Iterable[int]) -> None:
        """On a rank that only gives its share: follow what the others ask for."""
        for index in sequences:
            self.sequence(index)
