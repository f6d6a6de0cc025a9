"""Checks before vLLM starts, which would refuse a minute later, or not at all."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import torch

from tilepress.checkpoint import Checkpoint
from tilepress.checkpoint.sharding.split import check_tp, padded_vocabulary
from tilepress.errors import UsageError
from tilepress.models.transformers_config import empty_model, generation_config, model_config
from tilepress.text import check_chat_template, load_tokenizer

Find = Callable[[str], ModuleSpec | None]


def check_installed(parallel_decoding: str, find: Find = find_spec) -> None:
    """Raises UsageError, with what to install, where vLLM or what it needs for an option is missing."""
    if find("vllm") is None:
        raise UsageError(
            f"vLLM is not installed for {sys.executable}. Without a GPU: `make vllm` in a checkout of tilepress, then "
            "`.venv-vllm/bin/tilepress serve DIR`. With CUDA: `pip install vllm==0.32.0` beside tilepress. More: "
            "docs/reference/engines.md, Installing"
        )
    if parallel_decoding == "memory" and find("arctic_inference") is None:
        raise UsageError(
            "--parallel-decoding memory: vLLM drafts from earlier answers by Arctic Inference, which is not installed; "
            "`pip install arctic-inference==0.1.1`, or take --parallel-decoding ngram"
        )


def check_ranks(checkpoint: Checkpoint, tp: int) -> None:
    """Raises CheckpointError or UsageError where `tp` ranks cannot share the model."""
    check_tp(checkpoint.shape, tp, checkpoint.path)
    if padded_vocabulary(checkpoint.shape) % tp:
        raise UsageError(
            f"--tp {tp}: vLLM does not split a vocabulary of {padded_vocabulary(checkpoint.shape)} rows into so many "
            "parts; serve the model with another number, such as --tp 1"
        )


def check_model_files(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a config, tokenizer, chat template or generation config that does not work."""
    config = model_config(checkpoint.config, checkpoint.path)
    empty_model(config, torch.float32, checkpoint.path)
    check_chat_template(load_tokenizer(checkpoint.path, config))
    generation_config(checkpoint.path)


def check_port(host: str, port: int) -> None:
    """Raises UsageError where the server could not listen. vLLM shares a port with another one of the same user."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}; give an address of this machine") from None
    family, kind, protocol, _, address = addresses[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: connections that are just closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UsageError(f"--host {host} --port {port}: {error.strerror}; choose another one") from None


def is_local(host: str) -> bool:
    """Return True if only this machine reaches `host`."""
    with suppress(socket.gaierror):
        return all(str(address[4][0]).startswith(("127.", "::1")) for address in socket.getaddrinfo(host, None))
    return False
