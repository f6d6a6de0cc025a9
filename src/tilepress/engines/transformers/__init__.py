"""The embedded engine: Hugging Face transformers with linears that multiply from compressed bytes."""

from tilepress.engines.transformers.generate import Generation, generate
from tilepress.engines.transformers.generation.conversation import Conversation
from tilepress.engines.transformers.generation.kv_cache import PrefixCache
from tilepress.engines.transformers.generation.tools import ToolCall
from tilepress.engines.transformers.loading import load

__all__ = ["Conversation", "Generation", "PrefixCache", "ToolCall", "generate", "load"]
