"""The embedded engine: Hugging Face transformers with linears that multiply from compressed bytes."""

from tilepress.engines.transformers.conversation import Conversation
from tilepress.engines.transformers.generate import Generation, generate
from tilepress.engines.transformers.loading import load
from tilepress.engines.transformers.prefix_cache import PrefixCache
from tilepress.engines.transformers.tool_calls import ToolCall

__all__ = ["Conversation", "Generation", "PrefixCache", "ToolCall", "generate", "load"]
