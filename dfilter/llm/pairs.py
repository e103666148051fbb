"""Reading two ratings, one of each of two answers."""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dfilter.llm.answers import OK, TRUNCATED, UNPARSED, Reading, Reply
from dfilter.llm.grammar import whole_lines
from dfilter.llm.labels import label_of
from dfilter.llm.own_words import Line
from dfilter.llm.reading import settled
from dfilter.llm.scales import Numbers
from dfilter.llm.sentences import LABELLED, SENTENCES, SEPARATOR, closed, value_at
from dfilter.llm.structured import Leaf, leading_object, separate, tags_as_lines

Rating: TypeAlias = float | str  # or why it is none
Pair: TypeAlias = tuple[Rating, Rating]

_NUMBER = (
    r"(?P<{0}>(?:0|[1-9]\d{{0,2}})(?:[.,]\d{{1,2}})?)"
    r"(?:\s*(?:/|out of|von|sur|de)\s*(?P<of_{0}>\d{{1,3}}))?(?:\s*(?:points?|分|点|점))?"
)
# "8,6" may be one number, "8-6" a difference and "8/6" a share: none of them is two ratings.
_BETWEEN = r"(?:\s*(?:,(?=\s)|[;&|])\s*|\s+(?:and|und|et|y|e|и|vs\.?|to|と|和)\s+|\s+)"
_PAIR = re.compile(_NUMBER.format("one") + _BETWEEN + _NUMBER.format("two") + r"\s*\.?", re.IGNORECASE)

_ANSWER = (
    r"(?:answer|assistant|response|model|ai|candidate|reply|output|option"
    r"|Antwort|réponse|respuesta|resposta|ответ|回答|답변)"
)
_FIRST, _SECOND = r"(?:1|a|one|first|一|甲)", r"(?:2|b|two|second|二|乙)"
_SCORE = r"(?:score|rating|grade|points)"
_NAMED = re.compile(rf"{_ANSWER}[\s_#-]*[12]\b", re.IGNORECASE)
_SIDE = re.compile(
    rf"(?:(?:the\s+|my\s+)?{_SCORE}\s+(?:for|of)\s+)?(?:the\s+)?"
    rf"(?:{_ANSWER}(?:['’]?s)?[\s_#-]*(?:(?:no\.?|number)[\s_#-]*)?(?P<after>{_FIRST}|{_SECOND})"
    rf"|(?:the\s+)?(?P<before>{_FIRST}|{_SECOND})\s+{_ANSWER}"
    rf"|{_SCORE}[\s_-]*(?P<scored>{_FIRST}|{_SECOND})"
    r"|(?P<bare>[12AB])(?=\s*[:=.)]|\Z))"
    rf"(?:['’]s)?(?:[\s_-]*\(?{_SCORE}\)?)?",
    re.IGNORECASE,
)
_AFTER_SIDE = re.compile(rf"(?:[.)](?=\s)|{SEPARATOR})", re.IGNORECASE)
_PIECES = re.compile(
    rf"[,;]\s+|\s+(?:and|und)\s+|、|(?<=[\d)])\s+(?={_ANSWER}[\s_#-]*(?:{_FIRST}|{_SECOND})\s*[:=])",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?P<bare>first|second|one|two)", re.IGNORECASE)  # as names in an object


@dataclass(frozen=True)
class PairScores:
    """Reads two ratings; the value is the first minus the second.

    Understood are two numbers on the first line (``8 6``, ``8, 6``, ``8/10 6/10``), one on each of the
    first two lines, and two that are labelled as the first and the second answer's, in any order.

    Attributes:
        low: the lowest rating.
        high: the highest; ``8/10`` is 8 of 10.
        name: kind and version.
    """

    low: int = 1
    high: int = 10
    name: str = "pair/2"

    def read(self, reply: Reply) -> Reading:
        """Return the difference, or why there is none."""
        return settled(reply, self._read)

    def _read(self, text: str, cut: bool) -> Reading:
        scale = Numbers(self.low, self.high)
        leaves, rest = leading_object(text)
        lines = whole_lines(tags_as_lines(rest), cut=cut)
        sides = [*_sides_in_object(leaves, scale), *_sides_in_lines(lines, scale)]
        pairs = {pair for pair in (_in_place(lines, scale), *_labelled(sides)) if pair is not None}
        wrong = next((rating for pair in pairs for rating in pair if isinstance(rating, str)), None)
        if leaves and not separate(rest):
            return Reading(UNPARSED, reason="what follows its object may be a part of it")
        if not pairs:
            return Reading(TRUNCATED if cut else UNPARSED, reason="it does not hold two ratings")
        if wrong is not None:
            return Reading(UNPARSED, reason=wrong)
        if len(pairs) > 1:
            return Reading(UNPARSED, reason="it names several pairs of ratings")
        one, two = pairs.pop()
        return Reading(OK, float(one) - float(two))


def _in_place(lines: Sequence[Line], scale: Numbers) -> Pair | None:
    """Return two ratings that stand where they belong: on the first line, or one on each of the first two."""
    if not lines or not lines[0].own:
        return None
    first = lines[0].text
    label = LABELLED.match(first)
    if label and label_of(label[0], "") is not None:  # "Ratings: 8 6"
        first = re.sub(r"\A\s*(?:[:=]|are\b)\s*", "", first[label.end() :])
        if not first and len(lines) > 1 and lines[1].own:
            first = lines[1].text
    if (pair := _two(first, scale)) is not None:
        return pair
    one, two, three = (_alone(line, scale) for line in (*lines[:3], *[None] * 3)[:3])
    return (one, two) if one is not None and two is not None and three is None else None


def _two(text: str, scale: Numbers) -> Pair | None:
    """Return two ratings that a text begins with, if no other number follows them."""
    text = re.sub(r"\\boxed|[\[\]{}]", "", text).strip("() ")
    found = _PAIR.match(text)
    rest = text[found.end() :].strip() if found else ""
    remark = rest[:1] in set("-–—(:") and not scale.rivals(_NAMED.sub("", rest))
    if found is None or (rest and not remark):
        return None
    return scale.score(found["one"], [found["of_one"]]), scale.score(found["two"], [found["of_two"]])


def _alone(line: Line | None, scale: Numbers) -> Rating | None:
    found = value_at(line.text, scale) if line and line.own else None
    return found[0] if found and found[1] in {"", ".", ",", ";"} else None


def _labelled(sides: Sequence[tuple[int, Rating]]) -> Iterator[Pair]:
    """Yield the pairs that labelled ratings make: one, where each answer has one rating."""
    one, two = ({rating for side, rating in sides if side == which} for which in (0, 1))
    yield from ((first, second) for first in one for second in two)


def _side_of(found: re.Match[str]) -> int:
    said = next(group for group in found.groups() if group)
    return int(re.fullmatch(_SECOND, said, re.IGNORECASE) is not None)


def _sides_in_lines(lines: Sequence[Line], scale: Numbers) -> Iterator[tuple[int, Rating]]:
    own = [_row(line.text) for line in lines if line.own and not line.announced]
    for piece in (piece for text in own for part in SENTENCES.split(text) for piece in _PIECES.split(part)):
        side = _SIDE.match(piece)
        gap = _AFTER_SIDE.match(piece, side.end()) if side else None
        rating = value_at(piece[gap.end() :], scale) if gap else None
        listed = rating is not None and re.match(r"\.\s*\d", rating[1])  # "Answer 1: 1. 10"
        if side and rating and not listed:
            remark = rating[1][:1] in {"", ".", ";", ",", "-", "–", "—", "(", ":"}
            if remark or not isinstance(closed(rating, scale), str):
                yield _side_of(side), rating[0]


def _row(text: str) -> str:
    """Return a table's row as its first two cells with a colon between them."""
    cells = [cell.strip() for cell in text.strip("| ").split("|")]
    return f"{cells[0]}: {cells[1]}" if text.startswith("|") and len(cells) > 1 else text


def _sides_in_object(leaves: Sequence[Leaf], scale: Numbers) -> Iterator[tuple[int, Rating]]:
    for path, text in leaves:
        if text.startswith("[") and (pair := _two(re.sub(r"[\[\]\"]", "", text), scale)):
            yield from enumerate(pair)
            continue
        named = path if label_of(path[-1], "") is not None else path[-1:]  # {"answer_1": {"score": 8}}
        side = next(
            (found for name in reversed(named) if (found := _SIDE.fullmatch(name) or _WORDS.fullmatch(name))),
            None,
        )
        rating = value_at(text, scale)
        if side and rating and not rating[1]:
            yield _side_of(side), rating[0]
