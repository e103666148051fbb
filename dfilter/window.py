"""What a model can read: how many tokens at once, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfilter.chat import Encoded, special_ids
from dfilter.models import configuration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerBase

BOUNDLESS = 1 << 30  # of a model that says no limit
NOT_EMBEDDED = "it holds a token that the model has no embedding for"
# These count positions from behind the padding token's number, so that the first ones are never used.
SHIFTED = frozenset({"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xmod"})


def window(config: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
    """Return how many tokens a model has positions for, of one that is loaded or of its configuration.

    Models with learnt positions (GPT-2: 1,024, OPT: 2,048) cannot read a token more; others were never
    trained to. OPT's table has two positions more than its configuration says, which it puts in front, so all
    that are said are free. The tokenizer's figure counts only where the model has none: it is often what some
    training cut rows to.

    Args:
        config: the model's configuration; that of its text part is looked up.
        tokenizer: asked where the model says nothing.
    """
    text = config.get_text_config()
    known = getattr(text, "max_position_embeddings", None)  # GPT-2 and GPT-J answer with n_positions
    if isinstance(known, int) and known > 0:
        return known - text.pad_token_id - 1 if text.model_type in SHIFTED else known
    said = getattr(tokenizer, "model_max_length", None)
    return int(said) if isinstance(said, int | float) and 0 < said < BOUNDLESS else BOUNDLESS


def window_of(model: str, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
    """Return :func:`window` of a model's name or folder; no weight is read."""
    return window(configuration(model), tokenizer)


def vocabulary(config: Any) -> int:
    """Return how many tokens a model has embeddings for.

    Its tokenizer may know more: Gemma 3's has a token for images that the models of text alone lack.

    Args:
        config: as for :func:`window`.
    """
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else BOUNDLESS


def beyond(ids: Sequence[int], size: int) -> bool:
    """Return whether one of the tokens lies beyond a vocabulary of that size."""
    return max(ids, default=0) >= size


def readable(rows: Iterable[Encoded], size: int) -> list[Encoded]:
    """Return the rows, with a refusal in place of those that hold a token beyond the vocabulary."""
    return [Encoded([], [], NOT_EMBEDDED) if beyond(row.input_ids, size) else row for row in rows]


def padding(tokenizer: PreTrainedTokenizerBase, size: int) -> int:
    """Return what pads a batch: the tokenizer's choice, or what the model has an embedding for.

    Padding is masked, so any token does; behind an answer that ended it is best one that is not shown.
    """
    found = special_ids(tokenizer)
    return next((token for token in (found.pad, found.end) if token < size), 0)
