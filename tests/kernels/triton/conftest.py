"""These tests run the kernels in Triton's interpreter: the same source on CPU tensors, one program after the other."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
