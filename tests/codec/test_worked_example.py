"""The example of docs/reference/bitstream.md is what the codec does."""

import re
from pathlib import Path

import numpy as np

from tilepress import codec
from tilepress.codec import reference

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "bitstream.md").read_text(encoding="utf-8")


def block(name: str) -> list[str]:
    """The lines of the fenced block ```name of the page."""
    found = re.search(rf"^```{name}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/bitstream.md has no block ```{name}"
    return found[1].splitlines()


MATRIX = np.array([line.split() for line in block("matrix")]).astype(np.int8)
EXAMPLE = codec.Compressed(
    weight=np.frombuffer(bytes.fromhex("".join(line.partition(":")[2] for line in block("weight"))), np.int8),
    index=np.frombuffer(bytes.fromhex("".join(block("index"))), np.int8),
    info=np.array([int(number, 0) for number in block("info")[0].split()], np.int64),
)


def test_the_example_decodes_to_its_matrix():
    assert np.array_equal(codec.decode(EXAMPLE), MATRIX)
    assert np.array_equal(reference.decode(EXAMPLE), MATRIX)


def test_the_matrix_encodes_to_the_example():
    for compressed in codec.encode(MATRIX), reference.encode(MATRIX):
        assert np.array_equal(compressed.weight, EXAMPLE.weight)
        assert np.array_equal(compressed.index, EXAMPLE.index)
        assert np.array_equal(compressed.info, EXAMPLE.info)
