"""The serving engine: a plugin of vLLM, found by the entry point `vllm.general_plugins`."""

from __future__ import annotations

import logging


def register() -> None:
    """Teach vLLM to load W8A8S and W8A8SC directories. vLLM calls it in each of its processes, maybe several times.

    With a vLLM whose plugin interface is another one, a warning tells so and vLLM goes on without tilepress.
    """
    try:
        from tilepress.engines.vllm import config, loader

        config.register()
        loader.register()
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "tilepress directories cannot be loaded by this version of vLLM (%s); see docs/reference/engines.md",
            error,
        )
