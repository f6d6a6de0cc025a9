"""vLLM's OpenAI-compatible server with the defaults that a checkpoint and this machine want."""

from __future__ import annotations

from tilepress.engines.vllm.serve.options import ServeOptions
from tilepress.engines.vllm.serve.plan import ServePlan, make_plan

__all__ = ["ServeOptions", "ServePlan", "make_plan"]
