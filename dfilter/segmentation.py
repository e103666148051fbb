"""Words of every script: between blanks where there are blanks, characters where there are none.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words, and so are the
scripts that Unicode breaks by dictionary or by written syllable (UAX 14: SA, AK). Finding their
words takes a dictionary and disagrees between dictionaries; characters (extended grapheme clusters of
Unicode's UAX 29) take none, and serve as well for counting and for comparing runs. Tibetan marks its
syllables, which are taken there. Marks, such as vowel signs, belong to the letter before them, and joiners
between letters to the word.

Where short texts are compared, signs count too: "12 - 5" is not "12 + 5", nor "C++" "C#".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import regex

_UNSPACED = (
    r"\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Thai}\p{scx=Laoo}\p{scx=Khmr}\p{scx=Mymr}"
    r"\p{scx=Lana}\p{scx=Talu}\p{scx=Tavt}\p{scx=Tale}\p{scx=Ahom}\p{scx=Java}\p{scx=Bali}\p{scx=Yiii}"
    r"\p{scx=Batk}\p{scx=Bugi}\p{scx=Rjng}\p{scx=Maka}\p{scx=Nshu}\p{scx=Tang}\p{scx=Kits}"
)
_SYLLABLE = r"(?=\p{scx=Tibt})[\p{L}\p{N}](?:(?=\p{scx=Tibt})[\p{L}\p{M}\p{N}])*[\u0f0b\u0f0c]?"
_CHARACTER = regex.compile(rf"{_SYLLABLE}|(?=[{_UNSPACED}])(?=[\p{{L}}\p{{N}}])\X")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}_](?:[\p{L}\p{M}\p{N}_]|[\u200c\u200d](?=[\p{L}\p{M}]))*")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
# Symbols, and what is one between operands only: elsewhere "-" joins words and "*" makes them bold.
_SYMBOL = r"[\p{S}%&--[`\u00b4]]|(?<=\w)\#|!(?==)|(?<!\w)!(?=[\w(])"
_MINUS = r"-(?=[=>])|(?<![\p{L}\p{M}]|^ *)-(?= ?\d)|(?<!\S)-(?=\d)"  # a line's first "- " is a bullet
_BETWEEN = r"(?<=(?<!\w)\w ?|[)\]] ?)[-/](?= ?[(\[]| ?\w(?!\w))|(?<=\d ?)/(?= ?\d)"
_TIMES = r"(?<=[\w)\]])\*{1,2}(?=[\w(\[])|(?<=[\w)\]] )\*{1,2}(?= [\w(\[])"
_WORD_OR_SIGN = regex.compile(rf"(?V1m){_WORD.pattern}|{_SYMBOL}|{_MINUS}|{_BETWEEN}|{_TIMES}")
_ONE_SIGN = str.maketrans({"\u2212": "-", "\u2044": "/", "\ufe0e": "", "\ufe0f": ""})


def spaced(text: str) -> str:
    """Return the text with blanks around every character of a script that has none between words.

    Of Tibetan around every syllable, with the mark behind it.
    """
    return text if text.isascii() else str(_CHARACTER.sub(r" \g<0> ", text))


def mostly_characters(tokens: Sequence[str]) -> bool:
    """Return whether more than half of some words are characters or syllables of scripts without blanks."""
    return 2 * sum(not t.isascii() and _CHARACTER.match(t) is not None for t in tokens) > len(tokens)


def words(text: str) -> list[str]:
    """Return the words of a text, lower-case, without punctuation, in one Unicode form."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = _WORD.findall(spaced(_one_form(text)))
    return found


def words_and_signs(text: str) -> list[str]:
    """Return the words of a text with the signs between them: operators, currencies, emoji and the like."""
    found: list[str] = _WORD_OR_SIGN.findall(spaced(_one_form(text).translate(_ONE_SIGN)))
    return found


def _one_form(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
