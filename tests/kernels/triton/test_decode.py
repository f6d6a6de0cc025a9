"""Tiles to plain int8, against the codec's reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from int8_matrices import DISTRIBUTIONS, make_matrix
from kernels.triton.encodings import TILINGS, as_matrix, in_widths, matrices_in_all_widths
from tilepress.codec import Compressed, encode, reference
from tilepress.errors import BitstreamError
from tilepress.kernels.triton.decode import decode, decode_rows, scratch_memory


def assert_decodes(compressed: Compressed, matrix: np.ndarray) -> None:
    assert np.array_equal(reference.decode(compressed), matrix)
    assert torch.equal(decode(as_matrix(compressed)), torch.from_numpy(matrix))


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_every_kind_of_weight(kind: str) -> None:
    for shape in ((1, 1), (33, 70)):
        matrix = make_matrix(kind, *shape)
        assert_decodes(encode(matrix), matrix)


def test_several_tiles_down_and_across() -> None:
    matrix = make_matrix("gaussian with outliers", 150, 300)
    assert_decodes(encode(matrix), matrix)


@pytest.mark.parametrize(("tiling", "shape"), TILINGS)
def test_other_tilings(tiling: tuple[int, int], shape: tuple[int, int]) -> None:
    matrix = make_matrix("gaussian with outliers", *shape)
    assert_decodes(reference.encode(matrix, *tiling), matrix)


def test_levels_of_all_widths() -> None:
    for widths, matrix in matrices_in_all_widths():
        compressed = in_widths(matrix, widths)
        assert [tile.widths for tile in reference.parse(compressed)] == [widths]
        assert_decodes(compressed, matrix)


def test_levels_of_many_symbols() -> None:
    """More escapes than are decoded at a time, on three levels: the sums before each chunk have to be carried on."""
    matrix = np.random.default_rng(0).permutation(np.arange(128 * 256) % 12 - 6).reshape(128, 256).astype(np.int8)
    compressed = in_widths(matrix, (1, 1, 4))
    assert min(reference.parse(compressed)[0].counts) > 2 * 4096
    assert_decodes(compressed, matrix)


def test_some_rows() -> None:
    matrix = torch.from_numpy(make_matrix("gaussian", 300, 64))
    stored = as_matrix(encode(matrix.numpy()))
    damaged = torch.zeros(stored.fractal_rows, dtype=torch.int32)
    out = torch.full((90, 128), 99, dtype=torch.int8)  # wider than the matrix
    decode_rows(stored, out, damaged, scratch_memory(stored), 100)
    assert torch.equal(out[:, :64], matrix[100:190])
    assert (out[:, 64:] == 99).all()
    assert not damaged.any()


def damaged_copies(compressed: Compressed) -> list[Compressed]:
    """What the reference refuses: an entry, a sync table, a count and codes that are wrong; info; a tile cut short."""
    parsed = reference.parse(compressed)[1]
    copies = []
    for position, value in ((parsed.header, 0x7F), (parsed.header + 1, 0x7F), (parsed.level_0, None)):
        weight = compressed.weight.copy()
        weight[position] = ~weight[position] if value is None else value
        copies.append(Compressed(weight, compressed.index, compressed.info))
    for byte, value in ((8, 1), (13, 0x7F), (14, 0), (15, 0x7F)):
        index = compressed.index.copy()
        index[byte] = value
        copies.append(Compressed(compressed.weight, index, compressed.info))
    copies.append(Compressed(compressed.weight[: parsed.end - 64].copy(), compressed.index, compressed.info))
    for entry, value in ((0, 0), (1, 65), (2, 1), (3, 10**6), (4, 1)):
        info = compressed.info.copy()
        info[entry] = value
        copies.append(Compressed(compressed.weight, compressed.index, info))
    return copies


def test_damage_is_found() -> None:
    compressed = in_widths(make_matrix("gaussian with outliers", 40, 300), (2, 3, 8))
    for copy in damaged_copies(compressed):
        with pytest.raises(BitstreamError):
            reference.decode(copy)
        stored = as_matrix(Compressed(copy.weight, copy.index, compressed.info))
        stored.info.copy_(torch.from_numpy(copy.info))
        with pytest.raises(BitstreamError, match="a tile of row 0 is damaged"):
            decode(stored)


def test_random_damage_stays_within_the_buffers() -> None:
    """The interpreter reads and writes plain memory: what reaches too far crashes, or changes the guards."""
    compressed = encode(make_matrix("gaussian with outliers", 40, 70))
    rng = np.random.default_rng(0)
    guarded = torch.full((40 + 2, 96), 77, dtype=torch.int8)
    for _ in range(12):
        parts = [np.array(part) for part in (compressed.weight, compressed.index, compressed.info)]
        part = parts[rng.choice([0, 0, 1])].view(np.uint8)
        for _ in range(rng.integers(1, 6)):
            part[rng.integers(len(part))] ^= 1 << rng.integers(8)
        stored = as_matrix(Compressed(*parts))
        damaged = torch.zeros(stored.fractal_rows, dtype=torch.int32)
        decode_rows(stored, guarded[1:-1], damaged, scratch_memory(stored), 0)
        assert (guarded[0] == 77).all()
        assert (guarded[-1] == 77).all()
