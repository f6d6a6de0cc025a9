"""The bits of each group of linears, corrected on the way so that the whole model meets its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# A group's code is taken to be at most this many times longer, or shorter, than planned: some per cent are usual. A
# group that needs next to no bits, as in a layer that does nothing, is an exception: a tile's header alone exceeds its
# plan many times.
LONGER = 1.25


class Budget:
    """bits: per weight, by group. weights: their number, by group. exact: later groups make up for earlier ones.

    A group's code comes out some per cent longer or shorter than planned. The remaining groups share the remaining
    bits, corrected by the ratio of spent to planned bits so far.
    """

    def __init__(self, bits: Mapping[str, float], weights: Mapping[str, int], *, exact: bool) -> None:
        self._bits, self._weights, self._exact = bits, weights, exact
        self._left = self._planned_left = sum(bits[name] * weights[name] for name in bits)
        self._spent = self._planned = 0.0

    def bits(self, name: str) -> float:
        """Bits per weight to aim at for the next group, `name`."""
        if not self._exact or self._planned == 0.0 or self._planned_left <= 0.0:  # zeros take no bits of entropy
            return self._bits[name]
        longer = min(max(self._spent / self._planned, 1.0 / LONGER), LONGER)
        return self._bits[name] * self._left / (self._planned_left * longer)

    def state(self) -> list[float]:
        """Return the state for `restore`."""
        return [self._left, self._planned_left, self._spent, self._planned]

    def restore(self, state: Sequence[float]) -> None:
        self._left, self._planned_left, self._spent, self._planned = state

    def spend(self, name: str, aimed: float, taken: float) -> None:
        """Charge a finished group. aimed: the result of `bits`. taken: bits per weight of the group's code."""
        weights = self._weights[name]
        self._planned_left -= self._bits[name] * weights
        self._left -= taken * weights
        self._planned += aimed * weights
        self._spent += taken * weights
