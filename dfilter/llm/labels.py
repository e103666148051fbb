"""Labels: words that say that the number beside them is the score, or one of a criterion.

The words stand in ``labels.toml``. A label is a noun for a score (``score``, ``评分``), perhaps with words
that leave it the same score (``my final score``, ``score for accuracy``), or the name of a criterion. Any
other word makes something else of it: the *maximum* score and a *deducted* score are not the score.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

_HERE = re.compile(r"\A(?:sure|certainly|okay|ok)?\W*here(?:[\u2019']s| is)\s+", re.IGNORECASE)
LONGEST = 80  # characters of a label
GENERIC = ""  # what a label speaks of that names no criterion

# Another scale beside a score: "(0-5)", "(out of 5)", "on a scale from 0 to 5".
_SCALE = (
    r"(?:[(\[]\s*[^\d()\[\]]{0,24}(?:(?P<low{n}>\d{1,3})\s*[^\d()\[\]]{1,6}?\s*)?(?P<high{n}>\d{1,3})(?:\.0)?"
    r"[^\d()\[\]]{0,12}[)\]]"
    r"|(?:on|in|auf|sur|en|em|su)\s+(?:a|an|the|einer|une|una|uma)\s+(?:\w+\s+)?"
    r"(?:scale|Skala|échelle|escala|scala)\s+\w{1,4}\s+"
    r"(?P<low_{n}>\d{1,3})\s*(?:-|\u2013|to|bis|à|a|до)\s*(?P<high_{n}>\d{1,3}))"
)


def names_a_score(text: str) -> bool:
    """Whether one of the nouns for a score occurs in a text; a quick look before a slow pattern."""
    lowered = text.lower()
    return any(noun in lowered for noun in _NOUNS)


def scale_pattern(number: int) -> str:
    """Return the pattern of a scale that is named beside a score; its groups end in ``number``."""
    return _SCALE.replace("{n}", str(number))


def _any_of(words: Iterable[str]) -> str:
    """Return an alternation of words, the longest first, so that none hides another."""
    ranked = sorted(set(words), key=lambda word: (-len(word), word))
    return "|".join(re.escape(word).replace("_", r"[\s_\-]*") for word in ranked)


_WORDS = tomllib.loads(Path(__file__).with_name("labels.toml").read_text(encoding="utf-8"))


def _listed(table: str) -> list[str]:
    return " ".join(_WORDS[table].values()).split()


_NOUNS = tuple(sorted({noun.lower() for noun in _listed("nouns")}, key=lambda noun: (len(noun), noun)))
_GAP = r"(?:\s+|[_-])?"
# A word ends here. Scripts without blanks between words need none.
_END = r"(?:(?![^\W\d_])|(?<=[^\x00-\u1fff]))"
_CRITERIA = {
    name: re.compile(_any_of(words.split()), re.IGNORECASE) for name, words in _WORDS["criteria"].items()
}
_OTHER = rf"(?:{_any_of(_listed('others'))}){_END}"
_NOUN = rf"(?:{_any_of(_listed('nouns'))}){_END}"
_CRITERION = rf"(?:{_any_of(_listed('criteria') + _listed('more_criteria'))}){_END}"
_FOR = (
    r"(?:\s*(?:for|of|in|on(?!\s+an?\s+(?:\w+\s+)?scale)|für|pour|para|per|за|de|da|do)\s+"
    rf"(?:{_OTHER}{_GAP})*(?:(?P<regarding>{_CRITERION})|response|answer|Antwort)?)"
)
LABEL = (
    rf"(?:{_OTHER}{_GAP}){{0,5}}(?:(?P<criterion>{_CRITERION}){_GAP})?"
    rf"(?:(?P<noun>{_NOUN}){_GAP}(?:{_NOUN}{_GAP})?(?:{_OTHER}{_GAP}){{0,3}})?"
    rf"{_FOR}?\s*(?:{scale_pattern(0)}\s*)?"
)
# Said in the middle of a sentence, a score needs a word that makes it the judge's own.
OWN_LABEL = (
    rf"(?:\b{_OTHER}{_GAP}){{1,5}}(?:(?P<criterion>{_CRITERION}){_GAP})?(?P<noun>{_NOUN}){_GAP}{_FOR}?\s*"
)
_WHOLE = re.compile(LABEL, re.IGNORECASE)
_ENDS_IN_NOUN = re.compile(rf"(?:{_OTHER}{_GAP})*{_NOUN}", re.IGNORECASE)  # "overall" is both


def criterion_of(found: re.Match[str], asked: str) -> str | None:
    """Return what a label speaks of.

    Args:
        found: a match of ``LABEL`` or ``OWN_LABEL``.
        asked: the criterion that the template asks about, or nothing.

    Returns:
        GENERIC for a score as such, ``asked``, or another criterion; None when it is no label.
    """
    groups = found.groupdict()
    said = groups.get("criterion") or groups.get("regarding")
    if said:
        known = _CRITERIA.get(asked)
        return asked if known and known.fullmatch(said) else said.casefold()
    return GENERIC if groups.get("noun") or _ENDS_IN_NOUN.fullmatch(found[0].strip(" _-")) else None


def begins_with_label(text: str) -> bool:
    """Whether a text begins with a label."""
    found = _WHOLE.match(text)
    return found is not None and criterion_of(found, "") is not None


def label_of(text: str, asked: str) -> str | None:
    """Return what a text speaks of that is a label and nothing else; None when it is none."""
    if len(text) > LONGEST:
        return None
    words = _HERE.sub("", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)).strip(" :=*_")
    found = _WHOLE.fullmatch(words)
    return criterion_of(found, asked) if found else None
