"""The token that prompts begin with."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def start_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that every prompt begins with: the chat template's first, else the tokenizer's bos, else None.

    Massive activations sit on it (Sun et al., "Massive Activations in Large Language Models", 2024); without it they
    move to words. Calibration and evaluation therefore begin their sequences as prompts begin.
    """
    if tokenizer.chat_template is None:
        return None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    return int(tokenizer(rendered, add_special_tokens=False)["input_ids"][0])
