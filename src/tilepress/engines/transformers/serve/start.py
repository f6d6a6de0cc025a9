"""Loading a model and serving it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilepress.errors import UsageError
from tilepress.machine.memory import available_bytes
from tilepress.machine.requirements import human_bytes

EXTRA = "pip install 'tilepress[serve]'"


@dataclass(frozen=True)
class EmbeddedServer:
    """What the embedded server needs. name: what clients call the model, the directory's name if None.

    dtype, max_model_len, resident, kv: as of `load`. streams: answers that are computed at once; others wait.
    """

    path: str
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    api_key: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    max_model_len: int | None = None
    resident: str | None = None
    kv: str | None = None
    streams: int = 8

    @property
    def served_name(self) -> str:
        path = Path(self.path).expanduser()
        return self.name or (path.resolve().name if path.exists() else self.path)


def check_embedded(server: EmbeddedServer) -> None:
    """Raises UsageError where a package or the port is missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the embedded server needs {error.name}: {EXTRA}, or serve with vLLM (`make vllm`)") from None
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            raise UsageError(
                f"--host {server.host} --port {server.port}: cannot listen there ({error.strerror}); choose others"
            ) from None


def start_embedded(server: EmbeddedServer, note: Callable[[str], None] = print) -> None:
    """Load the model and answer until a signal comes. Raises what `load` does, and UsageError."""
    check_embedded(server)
    import uvicorn

    from tilepress.engines.transformers.generation.cache_type import bytes_a_token
    from tilepress.engines.transformers.loading import load
    from tilepress.engines.transformers.serve.answering import Answering
    from tilepress.engines.transformers.serve.app import make_app

    model, tokenizer = load(
        server.path,
        device=server.device,
        dtype=server.dtype,
        max_model_len=server.max_model_len,
        resident=server.resident,
        kv=server.kv,
    )
    context = model.config.max_position_embeddings
    needed = server.streams * context * bytes_a_token(model)
    if needed > available_bytes():
        note(
            f"{server.streams} streams of {context} tokens may take {human_bytes(needed)} for keys and values, and "
            f"{human_bytes(available_bytes())} are free: --streams and --max-model-len limit it"
        )
    note(f"the embedded engine serves {server.served_name} at http://{server.host}:{server.port}/v1; Ctrl-C ends it")
    app = make_app(Answering(model, tokenizer, streams=server.streams), server.served_name, server.api_key)
    uvicorn.run(app, host=server.host, port=server.port, log_level="info")
