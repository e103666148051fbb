"""What may stand where a score belongs: numbers of a scale, or declared words."""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

from dfilter.llm.labels import scale_pattern

NUMBER = r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{1,3}|,[0-9]{1,2})?"
_UNIT = (
    r"\s*(?:points?|pts?\.?|stars?|Punkten?|Sternen?|puntos?|pontos?|punti|étoiles?|estrellas?|estrelas?"
    r"|балл(?:а|ов)?|punten|punkt\w*|分|點|点|점|नंबर|अंक|نقاط|نقطة|درجات|درجة|★|⭐)"
    r"(?:です|とします|입니다|이다)?(?![^\W\d_])"
    r"|(?:です|입니다|이다)"
)
_OUT_OF = r"\s*(?:/|(?:out\s+of|of|von|aus|sur|de|su|van|av|af|из|od|din|من)\b)\s*"
_BEFORE = (  # 满分5分,得4分; 5点満点中4点, 5점 만점에 4점, 5 में से 4
    r"(?:(?:满分|滿分)\s*[为是]?\s*(?P<full>\d{1,3})\s*分?\s*[,、]?\s*得?分?\s*"
    r"|(?P<before>\d{1,3})\s*(?:点|分|점)?\s*(?:満点|满分|만점|中|중|में से)\s*"
    r"(?:中|に|の|で|에|에서)?[,、]?\s*(?:得分?|中)?\s*)"
)
# What would make a longer number, a range, a sum or a date of it.
_GOES_ON = r"(?![\w%°²³¹¼-¾*/+^]|[.,:]\d|\s*[-–—~/]\s*\d|\s*\d)"


class Values(Protocol):
    """A scale: of numbers or of words."""

    @property
    def phrase(self) -> re.Pattern[str]:
        """Matches a value as judges write it, with its unit and its scale; group ``value`` is the value."""
        ...

    def value(self, found: Mapping[str, str | None]) -> float | str:
        """Return what a phrase is worth, given its groups, or why it is none of the values."""
        ...

    def rivals(self, text: str) -> bool:
        """Whether a text names what could be another value."""
        ...

    def other_scale(self, name: str, text: str) -> str:
        """Return why a named value says that the scale is another one (``"out_of": 10``), or nothing."""
        ...

    def beside(self, found: Mapping[str, str | None]) -> str:
        """Return why the scale that a label's groups hold is another one (``Score (0-10)``), or nothing."""
        ...

    def is_scale(self, text: str) -> bool:
        """Whether a text only says what the scale is (``0-5``)."""
        ...


@dataclass(frozen=True)
class Numbers:
    """A scale of numbers.

    Attributes:
        low: the lowest.
        high: the highest; what a score is "out of" must be equal to it.
        whole: whether there is nothing between whole numbers.
    """

    low: float
    high: float
    whole: bool = False

    @property
    def phrase(self) -> re.Pattern[str]:  # noqa: D102 - the protocol says it
        return _number_phrase()

    def value(self, found: Mapping[str, str | None]) -> float | str:  # noqa: D102
        highs = [found[name] for name in ("full", "before", "of", "high1", "high_1", "high2", "high_2")]
        lows = [found[name] for name in ("low1", "low_1", "low2", "low_2")]
        return self.score(found["value"] or "", highs, lows)

    def score(
        self, text: str, highs: Sequence[str | None] = (), lows: Sequence[str | None] = ()
    ) -> float | str:
        """Return a number, or why it is none of this scale, given the ends of the scales beside it."""
        number = as_number(text)
        if any(high and as_number(high) != self.high for high in highs):
            return f"its scale does not end at {self.high:g}"
        if any(low and as_number(low) != self.low for low in lows):
            return f"its scale does not begin at {self.low:g}"
        if not self.low <= number <= self.high:
            return f"{number:g} is outside {self.low:g} to {self.high:g}"
        if self.whole and number != int(number):
            return f"{number:g} is no whole number"
        return number

    def rivals(self, text: str) -> bool:  # noqa: D102
        return bool(re.search(r"\d", text))

    def other_scale(self, name: str, text: str) -> str:  # noqa: D102
        words = " ".join(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
        ends = [as_number(end) for end in re.findall(r"\d+(?:\.\d+)?", text)]
        if ends and _HIGHEST.fullmatch(words):
            wrong = ends[-1] != self.high or (len(ends) > 1 and ends[0] != self.low)
        else:
            wrong = bool(ends and _LOWEST.fullmatch(words) and ends[0] != self.low)
        return f"its scale is not {self.low:g} to {self.high:g}" if wrong else ""

    def beside(self, found: Mapping[str, str | None]) -> str:  # noqa: D102
        high, low = found["high0"] or found["high_0"], found["low0"] or found["low_0"]
        wrong = (high and as_number(high) != self.high) or (low and as_number(low) != self.low)
        return f"its scale is not {self.low:g} to {self.high:g}" if wrong else ""

    def is_scale(self, text: str) -> bool:  # noqa: D102
        return bool(re.fullmatch(rf"\W*{self.low:g}\s*(?:-|–|to|bis)\s*{self.high:g}\W*", text))


_HIGHEST = re.compile(
    r"(?:out of|max(?:imum)?|highest|full|denominator|scale|range|of)"
    r"(?: (?:score|rating|marks?|points?|possible))?"
    r"|(?:score|rating) (?:max|scale|range)|total possible"
)
_LOWEST = re.compile(r"(?:min(?:imum)?|lowest)(?: (?:score|rating))?|(?:score|rating) min")


@dataclass(frozen=True)
class Words:
    """A scale of declared words.

    Attributes:
        values: word to value.
    """

    values: tuple[tuple[str, float], ...]

    @cached_property
    def phrase(self) -> re.Pattern[str]:  # noqa: D102
        words = "|".join(re.escape(word) for word, _ in sorted(self.values, key=lambda item: -len(item[0])))
        return re.compile(rf"(?P<value>{words})(?![\w/-]|\s*/\s*\w)", re.IGNORECASE)

    def value(self, found: Mapping[str, str | None]) -> float | str:  # noqa: D102
        said = (found["value"] or "").casefold()
        return next(value for word, value in self.values if word.casefold() == said)

    def rivals(self, text: str) -> bool:  # noqa: D102
        return bool(re.search(rf"(?<![\w-]){self.phrase.pattern}", text, re.IGNORECASE))

    def other_scale(self, name: str, text: str) -> str:  # noqa: D102, ARG002 - words have no other scale
        return ""

    def beside(self, found: Mapping[str, str | None]) -> str:  # noqa: D102, ARG002
        return ""

    def is_scale(self, text: str) -> bool:  # noqa: D102, ARG002
        return False


@cache
def _number_phrase() -> re.Pattern[str]:
    return re.compile(
        rf"(?:{scale_pattern(1)}\s*:?\s*)?(?:{_BEFORE})?(?P<value>{NUMBER})(?:{_UNIT})?"
        rf"(?:{_OUT_OF}(?P<of>[1-9]\d{{0,2}}(?:[.,]0{{1,2}})?)(?:{_UNIT})?)?"
        rf"(?:\s*{scale_pattern(2)})?{_GOES_ON}",
        re.IGNORECASE,
    )


def as_number(text: str) -> float:
    """Return a number that may have a decimal comma."""
    return float(text.replace(",", "."))
