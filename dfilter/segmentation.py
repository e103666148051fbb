"""Words of every script: between blanks where there are blanks, characters where there are none.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words. Finding their
words takes a dictionary and disagrees between dictionaries; characters (extended grapheme clusters of
Unicode's UAX 29) take none, and serve as well for counting and for comparing runs. Marks, such as vowel
signs, belong to the letter before them, and joiners between letters to the word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import regex

_UNSPACED = (
    r"\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Thai}\p{scx=Laoo}\p{scx=Khmr}\p{scx=Mymr}"
    r"\p{scx=Lana}\p{scx=Talu}\p{scx=Tavt}\p{scx=Java}\p{scx=Bali}\p{scx=Yiii}"
)
_CHARACTER = regex.compile(rf"(?=[{_UNSPACED}])(?=[\p{{L}}\p{{N}}])\X")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}_](?:[\p{L}\p{M}\p{N}_]|[\u200c\u200d](?=[\p{L}\p{M}]))*")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def spaced(text: str) -> str:
    """Return the text with blanks around every character of a script that has none between words."""
    return text if text.isascii() else str(_CHARACTER.sub(r" \g<0> ", text))


def mostly_characters(tokens: Sequence[str]) -> bool:
    """Return whether more than half of some words are characters of scripts without blanks."""
    return 2 * sum(not t.isascii() and _CHARACTER.match(t) is not None for t in tokens) > len(tokens)


def words(text: str) -> list[str]:
    """Return the words of a text, lower-case, without punctuation, in one Unicode form."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    one_form = unicodedata.normalize("NFKC", text).casefold()
    found: list[str] = _WORD.findall(spaced(one_form))
    return found
