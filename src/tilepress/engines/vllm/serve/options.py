"""The options of `tilepress serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tilepress.errors import UsageError

Drafts = Literal["off", "ngram", "memory"]


@dataclass(frozen=True)
class ServeOptions:
    """The options of `tilepress serve`, with their defaults.

    tp: tensor-parallel ranks. name: what clients call the model; the directory's name if None. max_model_len: tokens of
    prompt and answer together; what the model was trained for, or what memory allows, if None. kv_cache: bytes for
    keys and values of all ranks; found from free memory if None. dtype: of activations; the stored type if None.
    parallel_decoding: where drafts come from. tools: whether to parse tool calls; where the parser is known if None.
    extra: words for vLLM.
    """

    tp: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    max_model_len: int | None = None
    kv_cache: int | None = None
    dtype: str | None = None
    parallel_decoding: str = "off"
    prefix_cache: bool = True
    tools: bool | None = None
    api_key: str | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for a value that no model allows."""
        if self.parallel_decoding not in get_args(Drafts):
            raise UsageError(
                f"--parallel-decoding {self.parallel_decoding}: choose one of {', '.join(get_args(Drafts))}"
            )
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise UsageError(f"--dtype {self.dtype}: choose one of float32, bfloat16, float16")
        if self.max_model_len is not None and self.max_model_len < 1:
            raise UsageError(f"--max-model-len {self.max_model_len}: it has to be 1 or more")
        if self.api_key == "":
            raise UsageError("--api-key is empty; leave it out to serve without one")
