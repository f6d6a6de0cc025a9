"""The bits of each group of linears, and what is left of them for a size that has to come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# A group's code is taken to be at most so many times longer, or shorter, than planned: some per cent are usual. Of a
# group that is planned next to nothing, as one of a layer that does nothing, a tile's header alone is many times that.
LONGER = 1.25


class Budget:
    """bits a weight and weights of each group. exact: correct later groups for what earlier ones took.

    A group's code comes out some per cent longer or shorter than planned. The groups that are left share what is left,
    at the ratio of spent to planned so far.
    """

    def __init__(self, bits: Mapping[str, float], weights: Mapping[str, int], *, exact: bool) -> None:
        self._bits, self._weights, self._exact = bits, weights, exact
        self._left = self._planned_left = sum(bits[name] * weights[name] for name in bits)
        self._spent = self._planned = 0.0

    def bits(self, name: str) -> float:
        """Bits a weight to aim at for the group that is next."""
        if not self._exact or self._planned == 0.0:
            return self._bits[name]
        longer = min(max(self._spent / self._planned, 1.0 / LONGER), LONGER)
        return self._bits[name] * self._left / (self._planned_left * longer)

    def state(self) -> list[float]:
        """What `restore` takes, after groups that were spent before."""
        return [self._left, self._planned_left, self._spent, self._planned]

    def restore(self, state: Sequence[float]) -> None:
        self._left, self._planned_left, self._spent, self._planned = state

    def spend(self, name: str, aimed: float, taken: float) -> None:
        """aimed: what `bits` said. taken: bits a weight that the group's code takes, in the plan's unit."""
        weights = self._weights[name]
        self._planned_left -= self._bits[name] * weights
        self._left -= taken * weights
        self._planned += aimed * weights
        self._spent += taken * weights
