"""The kinds of tokenizers by what they put in front of a text, small enough to be made in a test."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dfilter.models import load_tokenizer

SPACE = "\u2581"
LETTERS = string.ascii_letters + string.digits + string.punctuation
MERGES = [(SPACE, letter) for letter in LETTERS] + [("t", "h"), ("th", "e"), ("o", "n"), (":", "-")]


def llama() -> Any:
    """LLaMA's as transformers makes it: a space before what comes first, and none behind a special token."""
    from transformers import LlamaTokenizer

    plain = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *LETTERS]
    vocabulary = dict.fromkeys([*plain, *("".join(pair) for pair in MERGES)])
    numbered = {token: at for at, token in enumerate(vocabulary)}
    return LlamaTokenizer(vocab=numbered, merges=MERGES, add_bos_token=True)


def legacy() -> Any:
    """LLaMA's older form: a space before what comes first, and behind every special token."""
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Prepend, Replace, Sequence
    from transformers import TokenizersBackend

    said = json.loads(llama().backend_tokenizer.to_str())
    raw = Tokenizer.from_str(json.dumps(said | {"pre_tokenizer": None}))
    raw.normalizer = Sequence([Prepend(SPACE), Replace(" ", SPACE)])
    return TokenizersBackend(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(*front: str) -> Any:
    """GPT-2's kind, which puts nothing in front, or these tokens: Llama 3 and OPT one, GLM two."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = None
    if front:
        known = tokenizer.get_vocab()
        tokenizer.bos_token = front[-1]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=" ".join([*front, "$A"]), special_tokens=[(token, known[token]) for token in front]
        )
    return tokenizer


def opt() -> Any:
    """OPT's begins every text with the token that ends one."""
    return byte_level("<|im_end|>")


KINDS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama, legacy": legacy,
    "byte level": byte_level,
    "byte level, one in front": lambda: byte_level("<|im_start|>"),
    "byte level, two in front": lambda: byte_level("<|endoftext|>", "<|im_start|>"),
    "opt": opt,
}


def save_model(folder: Path, tokenizer: Any, positions: int = 2_048) -> str:
    """Write a small causal model of random weights with this tokenizer; return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=positions, initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
