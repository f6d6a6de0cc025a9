"""OpenAI's protocol on the embedded engine, by FastAPI and uvicorn (extra `serve`)."""

from tilepress.engines.transformers.serve.start import EmbeddedServer, start_embedded

__all__ = ["EmbeddedServer", "start_embedded"]
