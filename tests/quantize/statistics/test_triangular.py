"""Triangles computed in blocks are those of the whole matrices."""

from __future__ import annotations

import pytest
import torch

from tilepress.quantize.statistics.triangular import add_gram, inverse_of_upper, mirror

# One block, a last one that is narrower, and more columns than blocks of the least width.
COLUMNS = [1, 255, 256, 700, 3200]


@pytest.mark.parametrize("k", COLUMNS)
def test_products_of_passes_add_up_to_a_symmetric_matrix(k: int) -> None:
    x = torch.randint(-8, 8, (60, k), generator=torch.Generator().manual_seed(k)).float()  # sums are exact
    products = torch.zeros(k, k)
    for part in x.split(25):
        add_gram(products, part)
    assert torch.equal(mirror(products), x.T @ x)


@pytest.mark.parametrize("k", COLUMNS)
def test_the_inverse_is_upper_triangular_and_gives_the_identity(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    upper = torch.randn(k, k, generator=generator).triu(1) / k**0.5 + torch.diag(1.0 + torch.rand(k))
    given = upper.clone()
    inverse = inverse_of_upper(upper)
    assert torch.equal(inverse, inverse.triu())
    assert torch.allclose(inverse @ upper, torch.eye(k), atol=2e-4)
    assert torch.equal(upper, given)
