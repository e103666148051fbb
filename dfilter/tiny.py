"""The model `tiny`: a small random Llama whose tokenizer is made here, so that tests need no download."""

from __future__ import annotations

import itertools
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TINY_VERSION = "2"  # a change of anything below is another model
SEED = 20240610
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = (
    "the of and to in is that it for was on are as with his they be at one have this from or had by hot "
    "but some what there we can out other were all your when up use word how said an each she which do "
    "their time if will way about many then them would write like so these her long make thing see him "
    "two has look more day could go come did my sound no most number who over know water than call "
    "first people may down side been now find any new work part take get place made live where after "
    "back little only round man year came show every good me give our under name very through just form "
    "much great think say help low line before turn cause same mean move right old too does tell "
    "sentence set three want air well also play small end put home read hand large spell add even land "
    "here must big high such follow act why ask men change went light kind off need house try user "
    "assistant system answer question list describe explain following example output input "
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tiny(folder: Path) -> None:
    """Write model and tokenizer: 2 layers of width 64, 0.2 M float32 parameters, a ChatML template.

    The same seed gives the same weights; the tokenizer knows every byte, so it has no unknown token.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend

    from dfilter.packaged import quiet_transformers

    raw = _tokenizer()
    pad, _, end = SPECIALS
    backend: Any = TokenizersBackend  # untyped
    config = LlamaConfig(
        vocab_size=raw.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=raw.token_to_id(end),
        pad_token_id=raw.token_to_id(pad),
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(SEED)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = backend(tokenizer_object=raw, eos_token=end, pad_token=pad, model_max_length=2048)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)


def _tokenizer() -> Tokenizer:
    """Build a byte-level BPE from a list of frequent words instead of training one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate([*SPECIALS, *alphabet])}
    doubles = [a + b for a in string.ascii_lowercase for b in "aeiourstn"]
    rank: dict[tuple[str, str], int] = {}
    for word in [f"Ġ{word}" for word in WORDS.split()] + WORDS.split() + doubles:
        left, *rest = _merged(list(word), rank)  # earlier merges come first in a BPE
        for piece in rest:
            rank[left, piece] = len(rank)
            left += piece
            vocab[left] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(rank)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIALS])
    return tokenizer


def _merged(pieces: list[str], rank: dict[tuple[str, str], int]) -> list[str]:
    """Apply merges to one word, the lowest rank first."""
    while pairs := [pair for pair in itertools.pairwise(pieces) if pair in rank]:
        at = list(itertools.pairwise(pieces)).index(min(pairs, key=rank.__getitem__))
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
    return pieces
