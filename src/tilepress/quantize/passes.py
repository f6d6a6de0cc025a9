"""The passes of the calibration sequences through a layer, and which of them a rank makes."""

from __future__ import annotations

from tilepress.quantize.hidden_states import sequences_a_pass
from tilepress.quantize.ranks import Ranks


class Passes:
    """Of `samples` sequences of `length` tokens.

    sequences: of a pass. share: the sequences of this rank, whole passes. before, after: tokens of each pass that ranks
    before it and after it make.
    """

    def __init__(self, samples: int, length: int, ranks: Ranks) -> None:
        self.sequences = sequences_a_pass(samples, length)
        self.share = ranks.share(samples, self.sequences)
        starts = range(0, samples, self.sequences)
        tokens = [length * min(self.sequences, samples - start) for start in starts]
        self.before = tokens[: -(-self.share.start // self.sequences)]
        self.after = tokens[-(-self.share.stop // self.sequences) :]
