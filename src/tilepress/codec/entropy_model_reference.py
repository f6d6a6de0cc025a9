"""What the encoder of the entropy-coded form chooses: scales of rows and columns, classes, frequencies. In integers
alone, so that every machine chooses the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilepress.codec.compressed import Int8Array

TOTAL_BITS = 11
TOTAL = 1 << TOTAL_BITS
ESCAPE = -128
MAX_CLASSES = 32
# Logarithms in fixed point.
LOG_BITS = 16
# Weights of squares, which are 1 over a mean square.
WEIGHT_BITS = 24
# A matrix as large takes eighths of an octave, where rows and columns tell them apart; smaller ones take quarters.
FINE_FROM = 1 << 22
# 2^31 times the powers of 2 between which a logarithm rounds to a multiple of 1/2 or 1/4.
THRESHOLDS = {2: (2553802834, 3611622603), 4: (2341847524, 2784941738, 3311872530, 3938502376)}
# 2^24 times 2^(i / 4).
ROOTS = (16777216, 19951585, 23726566, 28215802)
FURTHEST_LEVEL = 100

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Model:
    """codes: the bytes of each class's table. rows, columns: the scales that a class is found from."""

    shift: int
    codes: list[bytes]
    rows: Integers
    columns: Integers

    @property
    def tables(self) -> list[list[int]]:
        return [frequencies(code) for code in self.codes]

    def classes(self, rows: Integers) -> Integers:
        """The classes [len(rows), k] of rows with these scales."""
        classes: Integers = np.clip(rows[:, None] + self.columns >> self.shift, 0, len(self.codes) - 1)
        return classes


def choose_rows(n: int, k: int) -> int:
    """Rows of a block: two blocks from 2^18 weights, four from 2^19, then one for 2^19 each."""
    blocks = max(1, min(n * k >> 17, 4), n * k >> 19)
    return -(-n // (32 * blocks)) * 32


# Tables -------------------------------------------------------------------------------------------------------------


def frequency(code: int) -> int:
    """Codes 0 to 127 are 0 to 1984, exact below 32, then in steps of 1/16 to 1/32."""
    return code if code < 16 else 16 + (code & 15) << (code >> 4) - 1


def frequencies(table: bytes) -> list[int]:
    """A table's bytes to the frequencies of 0, of each magnitude from 1 on (of either sign), and of the escape."""
    others = [frequency(code) for code in table[1:]]
    return [TOTAL - 2 * sum(others[:-1]) - others[-1], *others]


def _nearest_code(wanted: int) -> int:
    exponent = max(wanted.bit_length() - 5, 0)
    mantissa = wanted + (1 << exponent >> 1) >> exponent
    return mantissa if mantissa < 16 else min((exponent << 4) + mantissa, 127)


def _share(count: int, of: int, slots: int) -> int:
    """The code of count / of * slots, at least 1 for what occurs."""
    return _nearest_code(max((2 * slots * count + of) // (2 * of), 1)) if count else 0


def log2(value: int) -> int:
    """The logarithm of an integer of at most 32 bits, in units of 2^-16, rounded down."""
    result = value.bit_length() - 1
    mantissa = value << 31 - result
    for _ in range(LOG_BITS):
        mantissa = mantissa * mantissa >> 31
        result = result << 1 | mantissa >> 32
        mantissa >>= mantissa >> 32
    return result


LOG2 = [0, *(log2(value) for value in range(1, TOTAL + 1))]


def _table(counts: list[int], largest: int) -> bytes:
    """The table with magnitudes up to `largest` for symbols that occur so often by magnitude, [0 ... 128]."""
    total = sum(counts)
    codes = [_share(count, total, TOTAL // 2) for count in counts[1 : largest + 1]]
    codes.append(_share(sum(counts[largest + 1 :]), total, TOTAL))
    while TOTAL - 2 * sum(map(frequency, codes[:-1])) - frequency(codes[-1]) < (counts[0] > 0):
        codes[codes.index(max(codes))] -= 1
    return bytes([largest, *codes])


def _cost(counts: list[int], table: bytes) -> int:
    """Bits that the symbols and the table take, in units of 2^-16."""
    bits = [(TOTAL_BITS << LOG_BITS) - LOG2[each] for each in frequencies(table)]
    escaped = sum(counts[table[0] + 1 :])
    coded = sum(count * each for count, each in zip(counts, bits[:-1], strict=False))
    return coded + escaped * ((8 << LOG_BITS) + bits[-1]) + (8 * len(table) << LOG_BITS)


def _cheapest(counts: list[int]) -> tuple[int, bytes]:
    """The cheapest table, and its cost; of equal ones, the shortest."""
    if sum(counts) == 0:
        return 16 << LOG_BITS, bytes(2)
    top = max((magnitude for magnitude in range(128) if counts[magnitude]), default=0)
    tables = [
        _table(counts, largest)
        for largest in range(top + 1)
        if largest == top or 8 * sum(counts[largest + 1 :]) <= sum(counts)
    ]
    return min(((_cost(counts, table), table) for table in tables), key=lambda pair: pair[0])


def _merge_ends(counts: list[list[int]]) -> tuple[int, int, list[bytes]]:
    """Merges the lowest or the highest two classes as long as that saves bytes, or there are too many.

    Returns the costs of all, how many were merged at the low end, and the tables.
    """
    costs, below = [_cheapest(each) for each in counts], 0
    while len(counts) > 1:
        offers = []
        for at in (0, len(counts) - 2):
            both = [a + b for a, b in zip(counts[at], counts[at + 1], strict=True)]
            merged = _cheapest(both)
            offers.append((costs[at][0] + costs[at + 1][0] - merged[0], at, both, merged))
        gain, at, both, merged = offers[offers[1][0] > offers[0][0]]
        if gain < 0 and len(counts) <= MAX_CLASSES:
            break
        below += at == 0
        counts, costs = [*counts[:at], both, *counts[at + 2 :]], [*costs[:at], merged, *costs[at + 2 :]]
    return sum(cost for cost, _ in costs), below, [table for _, table in costs]


# Scales -------------------------------------------------------------------------------------------------------------


def _levels(sums: NDArray[np.uint64], count: int, scale: int, steps: int) -> Integers:
    """steps * log2(sum / 2^scale / count) of each, rounded; as if one value were 1 where all are 0."""
    levels = []
    for each in sums.tolist():
        ratio = max((each << 32 - scale) // count, (1 << 32) // count)
        exponent = ratio.bit_length() - 1
        mantissa = (ratio << 31 >> exponent) & 0xFFFFFFFF
        level = steps * (exponent - 32) + sum(mantissa >= threshold for threshold in THRESHOLDS[steps])
        levels.append(min(max(level, -FURTHEST_LEVEL), FURTHEST_LEVEL))
    return np.array(levels)


def _weights(levels: Integers, steps: int) -> NDArray[np.uint64]:
    """2^24 over the mean square of each level, which counts as 1/16 where it is less."""
    whole, part = np.divmod(-np.maximum(levels, -4 * steps), steps)
    roots = np.array(ROOTS)[part * (4 // steps)]
    weights: Integers = np.where(whole >= 0, roots << np.maximum(whole, 0), roots >> np.maximum(-whole, 0))
    return weights.astype(np.uint64)


def choose_model(matrix: Int8Array) -> Model:
    """The scales, classes and tables for an int8 matrix [n, k]."""
    n, k = matrix.shape
    steps = 4 if n * k >= FINE_FROM else 2
    magnitudes = np.abs(matrix.astype(np.int64))
    squares = (magnitudes**2).astype(np.uint64)
    rows = _levels(squares.sum(axis=1), k, 0, steps)
    columns = _levels((squares * _weights(rows, steps)[:, None]).sum(axis=0), n, WEIGHT_BITS, steps)
    rows = _levels((squares * _weights(columns, steps)).sum(axis=1), k, WEIGHT_BITS, steps)
    choices = []
    for shift in (steps // 2 - 1, steps // 2):
        labels = rows[:, None] + columns >> shift
        lowest = int(rows.min() + columns.min()) >> shift
        highest = int(rows.max() + columns.max()) >> shift
        places = 129 * (labels - lowest) + magnitudes
        counts = np.bincount(places.ravel(), minlength=129 * (highest - lowest + 1)).reshape(-1, 129)
        cost, merged, tables = _merge_ends(counts.tolist())
        choices.append((cost, Model(shift, tables, rows - (lowest + merged << shift), columns)))
    return min(choices, key=lambda choice: choice[0])[1]


def rice_encode(values: Integers) -> bytes:
    """Integers in the code of the page's "Scales": around their median, with the best parameter."""
    base = int(np.sort(values)[(len(values) - 1) // 2])
    folded = np.where(values >= base, 2 * (values - base), 2 * (base - values) - 1).tolist()
    lengths = [sum((each >> p) + 1 + p for each in folded) for p in range(9)]
    parameter = lengths.index(min(lengths))
    bits: list[int] = []
    for each in folded:
        bits += [1] * (each >> parameter) + [0] + [each >> i & 1 for i in range(parameter)]
    packed = np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()
    return base.to_bytes(2, "little", signed=True) + bytes([parameter]) + packed
