"""Loading of a model's tokenizer and chat template, so that every command reports broken ones alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from tilepress.errors import CheckpointError
from tilepress.jobs.json_files import read_object, refuse_pointer

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.*", "*.tiktoken")
_QUESTION = [{"role": "user", "content": "Hello"}]


def load_tokenizer(
    directory: Path, config: PreTrainedConfig | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory. Raises CheckpointError, naming the file, where one is missing or broken.

    config: the model's; where it is None, transformers reads it again. The chat template is not checked: see
    `check_chat_template`.
    """
    # Without any of these files transformers silently makes a tokenizer without a vocabulary.
    found = [file for pattern in VOCABULARIES for file in sorted(directory.glob(pattern))]
    if not found:
        raise CheckpointError(f"{directory}: no tokenizer.json; copy the tokenizer's files from the original model")
    templates = [directory / "chat_template.jinja", *sorted(directory.glob("additional_chat_templates/*.jinja"))]
    for file in [*found, *templates]:
        refuse_pointer(file)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (directory / name).is_file():
            read_object(directory / name)
    for file in filter(Path.is_file, templates):
        try:
            file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file}: not UTF-8 text ({error}); get it again") from None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, config=config, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # the library of tokenizers raises plain Exceptions, transformers any
        raise CheckpointError(f"{found[0]}: {_reason(found[0], error)}") from error
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if getattr(tokenizer, name, None) == "":  # as in the first Llama's files; transformers would look it up
            setattr(tokenizer, name, None)
    return tokenizer


def start_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that begins every prompt: the chat template's first, else the tokenizer's bos, else None.

    Massive activations sit on it (Sun et al., "Massive Activations in Large Language Models", 2024); without it they
    move to words. Calibration and evaluation therefore begin their sequences as prompts begin. Raises CheckpointError
    as `check_chat_template` does.
    """
    if tokenizer.chat_template is None:
        return None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    return check_chat_template(tokenizer)[0]


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a user's "Hello" in the model's chat template, or of the plain word without a template.

    Raises CheckpointError for a template that is broken, refuses a user's message, or gives no tokens for it.
    """
    if tokenizer.chat_template is None:
        return list(tokenizer("Hello")["input_ids"])
    where = f"{tokenizer.name_or_path}: the chat template"
    remedy = "copy chat_template.jinja and tokenizer_config.json from the original model, or correct the template"
    try:
        rendered: Any = tokenizer.apply_chat_template(_QUESTION, tokenize=False)
        tokens = list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    except Exception as error:  # templates raise what they like: jinja's errors, TypeError, their own
        raise CheckpointError(f"{where} does not take a user's message ({error}); {remedy}") from error
    if not tokens:
        raise CheckpointError(f"{where} makes nothing of a user's message; {remedy}")
    return tokens


def _reason(file: Path, error: Exception) -> str:
    """Say in one line why a tokenizer cannot be read and what to do; transformers' own message has many lines."""
    text = " ".join(str(error).split())
    if file.name == "tokenizer.model" and any(word in text for word in ("sentencepiece", "tiktoken", "protobuf")):
        return (
            "transformers cannot read this tokenizer without the package sentencepiece or its fast form; "
            "`pip install sentencepiece protobuf`, or copy tokenizer.json from the original model"
        )
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    return (
        f"transformers cannot read the tokenizer ({type(error).__name__}: {shown}); copy its files from the original "
        "model, or install a newer transformers where the file is of a newer version"
    )
