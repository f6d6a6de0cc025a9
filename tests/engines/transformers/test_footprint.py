"""What `run` is foretold to have resident."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilepress.checkpoint import ModelShape
from tilepress.engines.transformers.loading import PROCESS, plan_run

QWEN3_8B = ModelShape(36, 4096, 12288, 32, 8, 128, 151936, tied=False)
TABLE = 151936 * 4096
CACHE = 2 * 2 * 4096 * 36 * 8 * 128
LINEARS = 36 * (2 * 4096**2 + 2 * 1024 * 4096 + 3 * 4096 * 12288)


@pytest.mark.parametrize(
    ("tied", "head", "embeddings", "weight_file", "looked_up"),
    [
        (False, True, True, (LINEARS + 2 * TABLE) // 2, TABLE // 2),
        (False, False, True, (LINEARS + TABLE) // 2 + 2 * TABLE, TABLE // 2),
        (False, True, False, (LINEARS + TABLE) // 2 + 2 * TABLE, 2 * TABLE),
        (False, False, False, LINEARS // 2 + 4 * TABLE, 2 * TABLE),
        (True, True, True, (LINEARS + TABLE) // 2, 0),
        (True, True, False, (LINEARS + TABLE) // 2 + 2 * TABLE, 2 * TABLE),
        (True, False, False, LINEARS // 2 + 2 * TABLE, 0),
    ],
)
def test_an_embedding_that_is_only_looked_up_is_not_read(
    tied: bool, head: bool, embeddings: bool, weight_file: int, looked_up: int
) -> None:
    """Integers of four bits a weight, tables of 16."""
    needs = plan_run(replace(QWEN3_8B, tied=tied), weight_file, head=head, embeddings=embeddings)
    assert needs.memory.needed == PROCESS + weight_file - looked_up + CACHE
