"""Token ids of texts and of their pieces, as the tokenizer itself gives them.

What a tokenizer puts in front of a text is added as ids. Written out as text it would not do: a SentencePiece
vocabulary puts a space before whatever comes first, and behind a special token nothing comes first, so
``<s>Below`` would begin otherwise than ``Below`` does behind the tokenizer's own ``<s>``.

A text may hold marks within the names of control tokens (:mod:`dfilter.control_tokens`). There it is cut, and
what stands behind a mark is tokenized as a piece of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from dfilter.control_tokens import BREAK
from dfilter.turns import Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACES = ("\u2581", "\u0120")  # how vocabularies write a space within a token
LINE = "\n"  # stands before a piece where a special token would put a space there
LETTER = "a"


def front_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer puts in front of every text: a beginning-of-text token, or none."""
    if not tokenizer("").input_ids:
        return []
    found = tokenizer(_special(tokenizer) or LETTER, return_special_tokens_mask=True)
    added = list(found["special_tokens_mask"])
    return list(found["input_ids"][: added.index(0) if 0 in added else len(added)])


def text_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]] | str:
    """Return the ids of each text, with nothing in front, or why the tokenizer has none.

    A vocabulary without a token for the unknown raises a bare Exception, and of a whole batch.
    """
    if not texts:
        return []
    if any(BREAK in text for text in texts):
        found = piece_ids([[Piece(text, spoken=False)] for text in texts], tokenizer)
        refused = next((ids for ids in found if isinstance(ids, str)), None)
        return [ids[0] for ids in found if not isinstance(ids, str)] if refused is None else refused
    try:
        read = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    except Exception as error:  # noqa: BLE001 - see above
        return f"the model's tokenizer cannot read it: {error}"
    return list(read.input_ids)


def piece_ids(
    rows: Sequence[Sequence[Piece]], tokenizer: PreTrainedTokenizerBase
) -> list[list[list[int]] | str]:
    """Return the ids of each row's pieces, with nothing in front, or why the tokenizer has none for the row.

    Each piece is tokenized on its own: the first that is not empty as what begins a text, the others as
    inside one, behind an anchor that is taken off again.
    """
    if any(BREAK in piece.text for row in rows for piece in row):
        cut = piece_ids([_cut(row) for row in rows], tokenizer)
        return [_joined(row, ids) for row, ids in zip(rows, cut, strict=True)]
    anchors = _anchors(tokenizer)
    marked = [_marked(row, anchors) for row in rows]
    found = text_ids([f"{anchor.text}{text}" for row in marked for anchor, text in row], tokenizer)
    if isinstance(found, str):
        return [found] if len(rows) == 1 else [ids for row in rows for ids in piece_ids([row], tokenizer)]
    flat = iter(found)
    return [
        [
            _taken_off(ids, anchor, text, anchors, tokenizer)
            for ids, (anchor, text) in zip(islice(flat, len(row)), row, strict=True)
        ]
        for row in marked
    ]


def _cut(row: Sequence[Piece]) -> list[Piece]:
    """Return a row's pieces, cut at the marks in them."""
    cut: list[Piece] = []
    for piece in row:
        *parts, last = piece.text.split(BREAK)
        cut += [replace(piece, text=part, eot=False) for part in parts]
        cut.append(replace(piece, text=last))
    return cut


def _joined(row: Sequence[Piece], found: list[list[int]] | str) -> list[list[int]] | str:
    """Return the ids of a row's pieces out of those of the parts that they were cut into."""
    if isinstance(found, str):
        return found
    parts = iter(found)
    return [[token for _ in range(piece.text.count(BREAK) + 1) for token in next(parts)] for piece in row]


@dataclass(frozen=True, slots=True)
class _Anchor:
    """Text that is put before a piece, and its ids there."""

    text: str
    ids: tuple[int, ...]


NOTHING = _Anchor("", ())


@dataclass(frozen=True, slots=True)
class _Anchors:
    """The anchor of pieces that follow a special token, those of the others, and the special tokens.

    Behind a special token most tokenizers put no space, so both are the same. LLaMA's legacy form does, as
    it does at the beginning: that is a false token inside a text, unless a special token does stand there.
    Then plain text is the anchor, and another one where the piece joins it.
    """

    special: _Anchor
    inside: tuple[_Anchor, ...]
    tokens: tuple[str, ...]


def _anchors(tokenizer: PreTrainedTokenizerBase) -> _Anchors:
    token = _special(tokenizer)
    probes = text_ids([token, f"{token}{LETTER}", f"{LINE}{LETTER}", LETTER], tokenizer)
    added = map(str, tokenizer.added_tokens_decoder.values())
    tokens = tuple(one for one in (*tokenizer.all_special_tokens, *added) if one)
    if isinstance(probes, str):  # it knows few words, and neither the letter nor a line break
        known = text_ids([token], tokenizer)
        special = NOTHING if isinstance(known, str) else _Anchor(token, tuple(known[0]))
        return _Anchors(special, (special,), tokens)
    ids, lettered, lined, letter = probes
    special = _Anchor(token, tuple(ids))
    behind = tokenizer.convert_ids_to_tokens(lettered[len(ids) :])
    spaced = bool(behind) and str(behind[0]).startswith(SPACES)
    plain = (_Anchor(LINE, tuple(lined[:-1])), _Anchor(LETTER, tuple(letter)))
    return _Anchors(special, (*plain, special) if spaced else (special,), tokens)


def _special(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a special token's text, or nothing where there is none."""
    known = (tokenizer.eos_token, tokenizer.pad_token, *tokenizer.all_special_tokens)
    return next((str(token) for token in known if token), "")


def _marked(row: Sequence[Piece], anchors: _Anchors) -> list[tuple[_Anchor, str]]:
    """Return a row's texts with what is put before each."""
    found: list[tuple[_Anchor, str]] = []
    before, closed = "", False
    for piece in row:
        behind = closed or before.endswith(anchors.tokens)
        anchor = (anchors.special if behind else anchors.inside[0]) if before or closed else NOTHING
        found.append((anchor, piece.text))
        before, closed = piece.text or before, piece.eot or (closed and not piece.text)
    return found


def _taken_off(
    ids: list[int], anchor: _Anchor, text: str, anchors: _Anchors, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Return a piece's ids without its anchor's; an anchor that joined the piece makes way for another."""
    if tuple(ids[: len(anchor.ids)]) == anchor.ids:
        return ids[len(anchor.ids) :]
    for other in anchors.inside:
        again = text_ids([f"{other.text}{text}"], tokenizer)
        if not isinstance(again, str) and tuple(again[0][: len(other.ids)]) == other.ids:
            return again[0][len(other.ids) :]
    return ids[len(anchor.ids) :]
