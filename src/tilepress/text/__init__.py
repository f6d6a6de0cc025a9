"""Text: recognition of prose, and a model's tokenizer and chat template."""

from __future__ import annotations

from tilepress.text.prose import is_prose, well_formed
from tilepress.text.tokenizer import check_chat_template, load_tokenizer, start_token

__all__ = ["check_chat_template", "is_prose", "load_tokenizer", "start_token", "well_formed"]
