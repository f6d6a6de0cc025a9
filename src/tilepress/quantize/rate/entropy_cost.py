"""The entropy coder's cost of quantized integers: bits per weight, and the length of each magnitude's code."""

from __future__ import annotations

import torch
from torch import Tensor

from tilepress.quantize.rate.rounding_rule import LARGEST

# A magnitude that did not occur still has a code; so many occurrences in a table of thousands.
UNSEEN = 0.02
# Classes of row deviations an octave, as the coder's rows and columns have (docs/reference/bitstream-v2.md).
CLASSES_AN_OCTAVE = 4
FAINTEST = 2.0**-6


def entropy_lengths(counts: Tensor) -> Tensor:
    """Return -log2 of each magnitude's share, and a bit for its sign; float32 [g, 128].

    counts: of magnitudes, int64 [g, 128], of each 128 rows. The coder's tables are finer, for classes of rows and
    columns; a decision that weighs error against bits sees the mean of the classes.
    """
    shares = counts.double() + UNSEEN
    lengths = -(shares / shares.sum(dim=1, keepdim=True)).log2()
    lengths[:, 1:] += 1.0
    return lengths.float()


def entropy_bits(integers: Tensor, deviation: Tensor) -> float:
    """Return bits per weight of integers [n, k] where rows of like deviation [n] share a table of frequencies.

    The coder also tells columns apart, which is some 1.5 % less, and its tables and scales take some 1 % of a matrix of
    a million weights.
    """
    classes = (deviation.clamp(min=FAINTEST).log2() * CLASSES_AN_OCTAVE).round().long()
    classes -= classes.min()
    places = integers.long() + LARGEST + (2 * LARGEST + 1) * classes[:, None]
    tables = int(classes.max()) + 1
    counts = torch.bincount(places.flatten(), minlength=tables * (2 * LARGEST + 1)).view(tables, -1).double()
    of_table = counts.sum(dim=1, keepdim=True).expand_as(counts)
    occurring = counts > 0
    return float(-(counts[occurring] * (counts[occurring] / of_table[occurring]).log2()).sum()) / integers.numel()
