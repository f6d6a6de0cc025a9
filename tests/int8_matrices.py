"""int8 matrices of all the kinds that a codec meets."""

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

DISTRIBUTIONS = {
    "zero": lambda rng, shape: np.zeros(shape),
    "constant": lambda rng, shape: np.full(shape, rng.integers(-128, 128)),
    "two values": lambda rng, shape: rng.choice([-128, 127], shape),
    "sparse": lambda rng, shape: (rng.random(shape) < 0.05) * rng.integers(-128, 128, shape),
    "gaussian": lambda rng, shape: rng.normal(0, rng.uniform(0.3, 20), shape),
    "gaussian with outliers": lambda rng, shape: rng.normal(0, 2, shape) * np.where(rng.random(shape) < 0.01, 16, 1),
    "rows of different scale": lambda rng, shape: rng.normal(0, 1, shape) * rng.uniform(0.1, 30, (shape[0], 1)),
    "half constant": lambda rng, shape: np.where(
        np.arange(shape[0])[:, None] < shape[0] // 2, 7, rng.integers(-9, 10, shape)
    ),
    "any ranking": lambda rng, shape: rng.permutation(np.arange(-128, 128))[
        np.minimum(rng.geometric(rng.uniform(0.01, 0.9), shape) - 1, rng.integers(1, 256))
    ],
    "incompressible": lambda rng, shape: rng.integers(-128, 128, shape),
}


def assert_same(a, b):
    """Two compressed forms of a matrix have the same three arrays."""
    assert np.array_equal(a.weight, b.weight)
    assert np.array_equal(a.index, b.index)
    assert np.array_equal(a.info, b.info)


def make_matrix(kind: str, n: int, k: int, seed: int = 0) -> np.ndarray:
    values = DISTRIBUTIONS[kind](np.random.default_rng(seed), (n, k))
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


def matrices_of_every_width() -> Iterator[np.ndarray]:
    """Tiles of 2 to 256 values, so that level 0 and those behind it are met in all widths from 1 to 8."""
    rng = np.random.default_rng(0)
    for spread in (0.2, 0.5, 0.8, 1.2, 2, 3.5, 6, 10, 16, 25, 40):
        for outliers in (1, 12):
            values = rng.normal(0, spread, (128, 512)) * np.where(rng.random((128, 512)) < 0.01, outliers, 1)
            yield np.clip(np.rint(values), -128, 127).astype(np.int8)


sizes = st.one_of(st.integers(1, 40), st.sampled_from([16, 17, 32, 33, 127, 128, 129, 256, 257, 300]))
tilings = st.sampled_from([(8, 8), (1, 1), (64, 1), (1, 64), (3, 5), (2, 2)])
matrices = st.builds(
    make_matrix, kind=st.sampled_from(sorted(DISTRIBUTIONS)), n=sizes, k=sizes, seed=st.integers(0, 2**32 - 1)
)
