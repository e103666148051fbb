"""Control tokens that a row's text mentions: they stay text.

A text about ``<|im_end|>`` is not the end of a turn, whatever a tokenizer makes of these letters. So before a
template sees a row's text, each name of a control token in it gets a mark behind its first letter. Tokenizing
cuts at the marks (:mod:`dfilter.token_ids`), so that the name is never seen whole; the text stays the same.
What a template writes itself has no marks, nor have the tags around reasoning and calls of tools.
``DFILTER_CONTROL_TOKENS=keep`` leaves all names as they are, for rows that were written out for one model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dfilter.errors import SettingsError
from dfilter.replies import THOUGHT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK = "\ufdd0\ufdd1\ufdd0"  # no text has these: they are no characters
VARIABLE = "DFILTER_CONTROL_TOKENS"
_TAGS = re.compile(r"<tool_call>\n|\n</tool_call>(?=\n<tool_call>|\Z)")


def kept() -> bool:
    """Return whether names of control tokens in a row's text mean these tokens.

    Raises:
        SettingsError: DFILTER_CONTROL_TOKENS says something else.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if said not in {"", "text", "keep"}:
        raise SettingsError(f"{VARIABLE} is '{said}'; expected text (the default) or keep.")
    return said == "keep"


def names(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Return what finds the names of a tokenizer's control tokens; none where they are kept or lacking.

    These are its special tokens, and those in angle or square brackets that were added beside them, such as
    ``<think>``. Added runs of blanks and words are vocabulary.
    """
    if kept():
        return None
    added = tokenizer.added_tokens_decoder.values()
    found = {str(token) for token in added if token.special or _bracketed(str(token))}
    found |= set(map(str, tokenizer.all_special_tokens))
    longest = sorted((name for name in found if len(name) > 1), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest))) if longest else None


def _bracketed(name: str) -> bool:
    return (name[:1], name[-1:]) in {("<", ">"), ("[", "]")}


def as_text(text: str, found: re.Pattern[str] | None) -> str:
    """Return a text with a mark within each name that ``found`` finds."""
    while found is not None and found.search(text):  # a mark may leave another name behind it
        text = found.sub(lambda match: f"{match[0][0]}{BREAK}{match[0][1:]}", text)
    return text


def reply_as_text(text: str, found: re.Pattern[str] | None) -> str:
    """Return :func:`as_text` of what the assistant says; the tags around its parts stay what they are."""
    if found is None or not found.search(text):
        return text
    thought = THOUGHT.match(text) if "</think>" in text else None
    head = ""
    if thought:
        begin, end = thought.span(1)
        head = text[:begin] + as_text(thought[1], found) + text[end : thought.end()]
        text = text[thought.end() :]
    tags = _TAGS.findall(text)
    between = [as_text(part, found) for part in _TAGS.split(text)]
    return head + "".join(f"{part}{tag}" for part, tag in zip(between, [*tags, ""], strict=True))


def all_as_text(value: Any, found: re.Pattern[str] | None) -> Any:
    """Return JSON with :func:`as_text` of every text in it, names of members included."""
    if isinstance(value, str):
        return as_text(value, found)
    if isinstance(value, Mapping):
        return {as_text(str(name), found): all_as_text(inner, found) for name, inner in value.items()}
    return [all_as_text(inner, found) for inner in value] if isinstance(value, list | tuple) else value
