"""The entropy-coded form in NumPy, to be read beside docs/reference/bitstream-v2.md. The native codec gives the same
bytes, and refuses the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tilepress.codec.compressed import Int8Array
from tilepress.codec.entropy_coding import BITSTREAM_V2, LANES, EntropyCoded
from tilepress.codec.entropy_model_reference import (
    ESCAPE,
    TOTAL_BITS,
    Model,
    choose_model,
    choose_rows,
    frequencies,
    rice_encode,
)
from tilepress.codec.layout import round_up
from tilepress.errors import BitstreamError

LOWEST_STATE = 1 << 16
MAX_CLASSES = 32
STATE_BYTES = 4 * LANES

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Slots:
    """The slots [0, 2048) of each class. value, frequency, offset (from the symbol's first slot): [classes, 2048]."""

    value: Integers
    frequency: Integers
    offset: Integers


def slots_of(tables: list[list[int]]) -> Slots:
    """Tables as frequencies of 0, of each magnitude 1 to m, and of the escape; each class sums up to 2048."""
    value, frequency, offset = [], [], []
    for table in tables:
        order = [(0, table[0])]
        for magnitude, each in enumerate(table[1:-1], 1):
            order += [(magnitude, each), (-magnitude, each)]
        order.append((ESCAPE, table[-1]))
        value.append(np.concatenate([np.full(each, symbol) for symbol, each in order]))
        frequency.append(np.concatenate([np.full(each, each) for _, each in order]))
        offset.append(np.concatenate([np.arange(each) for _, each in order]))
    return Slots(np.array(value), np.array(frequency), np.array(offset))


# Encoder ------------------------------------------------------------------------------------------------------------


def _symbols_to_code(slots: Slots) -> tuple[Integers, Integers]:
    """Frequency and first slot of each symbol, [classes, 256], by the symbol's value + 128."""
    frequency, start = np.zeros((2, len(slots.value), 256), np.int64)
    for label, row in enumerate(slots.value):
        first = np.flatnonzero(slots.offset[label] == 0)
        frequency[label, row[first] + 128] = slots.frequency[label, first]
        start[label, row[first] + 128] = first
    return frequency, start


def _encode_block(matrix: Int8Array, rows: Integers, model: Model, slots: Slots) -> bytes:
    frequency, start = _symbols_to_code(slots)
    classes = model.classes(rows)
    symbols = matrix.astype(np.int64)
    symbols[frequency[classes, symbols + 128] == 0] = ESCAPE
    states, chunks, escaped = np.full(LANES, LOWEST_STATE), [], b""
    passes = range(0, len(matrix), LANES)
    for top in passes:
        part = slice(top, top + LANES)
        escaped += matrix[part].T[symbols[part].T == ESCAPE].tobytes()
    for top in reversed(passes):
        part = slice(top, top + LANES)
        for label, symbol in zip(classes[part].T[::-1], symbols[part].T[::-1], strict=True):
            f, x = frequency[label, symbol + 128], states[: len(symbol)]
            full = x >= f << 32 - TOTAL_BITS
            chunks.append((x[full] & 0xFFFF).astype("<u2").tobytes())
            x = np.where(full, x >> 16, x)
            states[: len(symbol)] = (x // f << TOTAL_BITS) + x % f + start[label, symbol + 128]
    words = b"".join(reversed(chunks))
    numbers = np.array([len(words) // 2, len(escaped)], "<u8").tobytes()
    block = states.astype("<u4").tobytes() + numbers + rice_encode(rows) + escaped + words
    return block.ljust(round_up(len(block), 64), b"\0")


def encode(matrix: Int8Array, rows_of_block: int | None = None) -> EntropyCoded:
    """int8 matrix [n, k], n and k at least 1, as the native encoder codes it; or with blocks of so many rows."""
    n, k = matrix.shape
    step = rows_of_block or choose_rows(n, k)
    model = choose_model(matrix)
    slots = slots_of(model.tables)
    head = bytes([model.shift, len(model.codes)]) + b"".join(model.codes) + rice_encode(model.columns)
    weight, offsets = bytearray(head.ljust(round_up(len(head), 64), b"\0")), []
    for top in range(0, n, step):
        offsets.append(len(weight))
        weight += _encode_block(matrix[top : top + step], model.rows[top : top + step], model, slots)
    return EntropyCoded(
        np.frombuffer(weight, np.int8),
        np.frombuffer(np.array(offsets, "<u8").tobytes(), np.int8),
        np.array([LANES, step, k, n, BITSTREAM_V2], np.int64),
    )


# Decoder ------------------------------------------------------------------------------------------------------------


def _rice_decode(data: bytes, count: int, where: str) -> tuple[Integers, int]:
    """`count` values, and how many bytes they take. Raises BitstreamError if data does not hold them."""
    if len(data) < 3 or data[2] > 8:
        raise BitstreamError(f"{where}: scales begin past the end, or have a parameter above 8")
    base, parameter = int.from_bytes(data[:2], "little", signed=True), data[2]
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=3), bitorder="little").tolist()
    values, at = [], 0
    for _ in range(count):
        begin = at
        while at < len(bits) and bits[at]:
            at += 1
        quotient, at = at - begin, at + 1
        if at + parameter > len(bits):
            raise BitstreamError(f"{where}: scales reach past the end")
        folded = (quotient << parameter) + sum(bits[at + i] << i for i in range(parameter))
        at += parameter
        if folded > 1023:
            raise BitstreamError(f"{where}: a scale is further than 1023 from the base")
        values.append(base + (folded >> 1 if folded % 2 == 0 else -(folded + 1 >> 1)))
    return np.array(values), 3 + -(-at // 8)


def _parse_head(head: bytes, k: int) -> tuple[Model, int]:
    """The model without rows, and how many bytes the head takes."""
    if len(head) < 2 or head[0] > 7 or not 1 <= head[1] <= MAX_CLASSES:
        raise BitstreamError("head: the shift is above 7, or the classes are not 1 to 32")
    codes, at = [], 2
    for label in range(head[1]):
        length = 2 + head[at] if at < len(head) else 0
        table = head[at : at + length]
        if not table or len(table) < length or max(table[:1] + table[1:]) > 127:
            raise BitstreamError(f"head: the table of class {label} reaches past the end, or has a byte above 127")
        if frequencies(table)[0] < 0:
            raise BitstreamError(f"head: the frequencies of class {label} sum up to more than 2048")
        codes.append(table)
        at += length
    columns, size = _rice_decode(head[at:], k, "head")
    return Model(head[0], codes, np.zeros(0, np.int64), columns), at + size


def _decode_block(block: bytes, n: int, k: int, model: Model, slots: Slots, where: str) -> Int8Array:
    if len(block) < STATE_BYTES + 16:
        raise BitstreamError(f"{where}: it reaches past the end of weight")
    states = np.frombuffer(block, "<u4", LANES).astype(np.int64)
    if states.min() < LOWEST_STATE:
        raise BitstreamError(f"{where}: a state is below 65536")
    words_left, escapes = np.frombuffer(block, "<u8", 2, STATE_BYTES).tolist()
    rows, size = _rice_decode(block[STATE_BYTES + 16 :], n, where)
    first = STATE_BYTES + 16 + size
    if round_up(first + escapes + 2 * words_left, 64) != len(block):
        raise BitstreamError(f"{where}: it does not end where the next one begins")
    escaped = np.frombuffer(block, np.int8, escapes, first)
    words = np.frombuffer(block, "<u2", words_left, first + escapes).astype(np.int64)
    at, taken, matrix, classes = 0, 0, np.empty((n, k), np.int8), model.classes(rows)
    for top in range(0, n, LANES):
        lanes = min(LANES, n - top)
        for j in range(k):
            label, slot = classes[top : top + lanes, j], states[:lanes] & (1 << TOTAL_BITS) - 1
            values = slots.value[label, slot]
            x = slots.frequency[label, slot] * (states[:lanes] >> TOTAL_BITS) + slots.offset[label, slot]
            low, escape = x < LOWEST_STATE, values == ESCAPE
            if at + low.sum() > len(words) or taken + escape.sum() > escapes:
                raise BitstreamError(f"{where}: its codes take more words or escapes than it has")
            x[low] = x[low] << 16 | words[at : at + low.sum()]
            values[escape] = escaped[taken : taken + escape.sum()]
            states[:lanes], at, taken = x, at + low.sum(), taken + escape.sum()
            matrix[top : top + lanes, j] = values
    if at != len(words) or taken != escapes or (states != LOWEST_STATE).any():
        raise BitstreamError(f"{where}: its codes do not end as they began")
    return matrix


def decode(coded: EntropyCoded) -> Int8Array:
    """Return the int8 matrix [n, k]. Raises BitstreamError for any damage that the bytes show."""
    lanes, step, k, n, version = coded.info.tolist()
    if version != BITSTREAM_V2 or lanes != LANES or not (1 <= n < 2**31 and 1 <= k < 2**31):
        raise BitstreamError(f"info {coded.info.tolist()} is of no matrix in the entropy-coded form")
    if not 1 <= step < 2**31 or step % LANES:
        raise BitstreamError(f"info gives blocks of {step} rows, which is no multiple of 32")
    weight, offsets = coded.weight.tobytes(), np.frombuffer(coded.index.tobytes()[: len(coded.index) // 8 * 8], "<u8")
    if len(coded.index) != 8 * -(-n // step):
        raise BitstreamError(f"index has {len(coded.index)} bytes, not {8 * -(-n // step)}")
    bounds = [*offsets.tolist(), len(weight)]
    for number, (begin, end) in enumerate(pairwise(bounds)):
        if begin % 64 or not 0 < begin < end <= len(weight):
            raise BitstreamError(f"block {number}: the offset is no multiple of 64, or not within its neighbours")
    model, size = _parse_head(weight[: bounds[0]], k)
    if round_up(size, 64) != bounds[0]:
        raise BitstreamError("head: it does not end where the first block begins")
    slots = slots_of(model.tables)
    blocks = []
    for number, (begin, end) in enumerate(pairwise(bounds)):
        rows = min(step, n - number * step)
        blocks.append(_decode_block(weight[begin:end], rows, k, model, slots, f"block {number}"))
    return np.concatenate(blocks)
