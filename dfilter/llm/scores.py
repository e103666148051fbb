"""Reading a rating out of a judge's answer: strictly from text, or from its log probabilities.

Released parsers take the first character, the first bracket or minus one (see the tests for what
that does to real answers). Here a number counts only when the whole place where the score belongs
is understood: anything else is unparsed, and nothing outside the scale is a rating.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dfilter.llm.answers import OK, REFUSED, TRUNCATED, UNPARSED, Reading, Reply, unanswered

NUMBER = r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{1,3}|,[0-9]{1,2})?"
# Markdown and brackets around a word are no part of it; between two digits they are ("4*5").
DRESS = re.compile(r"(?<![\w.,])[*_`]+|[*_`]+(?![\w.,])")
THOUGHT = re.compile(r"\A\s*<think>.*</think>", re.DOTALL)
LABEL = re.compile(
    r"(?:(?:the|my|an?|overall|final|total)\s+){0,3}(?:[a-z]+\s+)?(?:score|rating|grade|accuracy|helpfulness|quality)"
    r"(?:\s*\(\s*0\s*(?:-|to)\s*[0-9]+\s*\))?\s*(?:[:=：]|\bis\b|\bof\b)\s*",  # noqa: RUF001 - a colon that judges write in Chinese
    re.IGNORECASE,
)
SCORE = re.compile(
    rf"(?P<number>{NUMBER})"
    rf"(?:\s*(?:/|\bout\s+of\b)\s*(?P<of>{NUMBER}))?"
    r"(?:\s+(?:points?|stars?))?"
    r"\s*\.?",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"\A\W*(?:i['’]?m (?:very )?sorry|i am (?:very )?sorry|sorry|i can(?:no|['’])t"  # noqa: RUF001
    r"|i(?:['’]m| am) (?:unable|not able)"  # noqa: RUF001
    r"|i won['’]t|as an ai)\b",  # noqa: RUF001
    re.IGNORECASE,
)
WORDS = ("score", "rating")


@dataclass(frozen=True)
class TextScore:
    """Reads a score that stands alone at the beginning of an answer.

    Understood are ``4.5``, ``4.5/5``, ``**4.5**``, ``[4.5]``, ``4,5``, ``Score: 4.5``, ``4.5 out of
    5``, a JSON object with one ``score``, and these after a ``<think>`` block. A number that begins a
    sentence or a list is not a score.

    Attributes:
        low: the scale's lowest rating.
        high: the scale's highest rating; a denominator must be equal to it.
    """

    low: int = 0
    high: int = 5

    @property
    def name(self) -> str:
        """Kind and version; a change of what is understood is a new version."""
        return "score/1"

    def read(self, reply: Reply) -> Reading:
        """Return the rating, or why there is none."""
        missing = unanswered(reply)
        if missing is not None:
            return missing
        text = THOUGHT.sub("", reply.text, count=1)
        lines = [line for line in text.splitlines() if line.strip()]
        cut = reply.finish == "length"
        if not lines or (cut and len(text.rstrip("\n").splitlines()) < 2 and not text.endswith("\n")):
            # "4" may be the beginning of "4.5".
            return Reading(TRUNCATED if cut else UNPARSED, reason="the answer ends before its score")
        value = self._value(lines, text)
        if value is None:
            if REFUSAL.match(text):
                return Reading(REFUSED, reason="the model declined to answer")
            return Reading(UNPARSED, reason=f"no score understood in '{_shown(lines[0])}'")
        if not self.low <= value <= self.high:
            return Reading(UNPARSED, reason=f"{value:g} is outside {self.low} to {self.high}")
        return Reading(OK, value)

    def _value(self, lines: list[str], text: str) -> float | None:
        first = _undress(lines[0])
        label = LABEL.match(first)
        rest = first[label.end() :] if label else first
        if label and not _undress(rest) and len(lines) > 1:
            rest = lines[1]
        found = SCORE.fullmatch(_undress(rest))
        if found is None:
            return _from_json(text)
        if found["of"] is not None and _float(found["of"]) != self.high:
            return None
        return _float(found["number"])


def _undress(text: str) -> str:
    text = DRESS.sub("", text.replace("\ufeff", "").replace("\u200b", "")).strip()
    text = re.sub(r"\A#+\s+", "", text)
    for opening, closing in (("[[", "]]"), ("[", "]"), ("(", ")"), ('"', '"'), ("'", "'"), ("“", "”")):
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
            return inner.strip() if not set(inner) & set("[]()\"'") else text
    return text


def _from_json(text: str) -> float | None:
    body = text.strip()
    if not (body.startswith("{") and body.endswith("}")) or len(body) > 10_000:
        return None
    pairs: list[tuple[str, object]] = []

    def keep(items: list[tuple[str, object]]) -> None:
        pairs.extend(items)

    try:
        json.loads(body, object_pairs_hook=keep, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    found = [value for name, value in pairs if name.lower() in WORDS]
    if len(found) != 1 or not isinstance(found[0], str) or not re.fullmatch(NUMBER, found[0]):
        return None
    return _float(found[0])


def _float(text: str) -> float:
    return float(text.replace(",", "."))


def _shown(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= 60 else line[:57] + "..."


@dataclass(frozen=True)
class ExpectedScore:
    """Reads the mean of the scale's whole numbers under the probabilities of the first token.

    Attributes:
        low: the scale's lowest rating, one digit.
        high: the scale's highest rating, one digit.

    How much mass a rating must have is for whoever uses it to say: the ledger keeps both.
    """

    low: int = 0
    high: int = 5

    @property
    def name(self) -> str:
        """Kind and version."""
        return "expected/1"

    def read(self, reply: Reply) -> Reading:
        """Return the rating with the mass it covers, or why there is none."""
        missing = unanswered(reply)
        if missing is not None:
            return missing
        if not reply.logprobs:
            return Reading(UNPARSED, reason="the answer has no log probabilities")
        value, mass = expectation(reply.logprobs[0][1], self.low, self.high)
        if mass <= 0.0:
            return Reading(UNPARSED, math.nan, 0.0, "no score is among the likely tokens")
        return Reading(OK, value, mass)


def expectation(tokens: Iterable[tuple[str, float]], low: int, high: int) -> tuple[float, float]:
    """Return the mean of the whole numbers from ``low`` to ``high`` and the probability they have.

    Args:
        tokens: alternatives of one token with their log probabilities; blanks around a digit and
            several tokens for one digit are fine.
        low: lowest, a digit.
        high: highest, a digit.

    Returns:
        (mean in [low, high], mass in [0, 1]); the mean is NaN when the mass is 0.
    """
    mass = total = 0.0
    digits = {str(value): value for value in range(low, high + 1)}
    for token, log in tokens:
        value = digits.get(token.replace("▁", " ").replace("Ġ", " ").strip())
        if value is not None:
            p = math.exp(min(log, 0.0))
            mass += p
            total += p * value
    if mass <= 0.0:
        return math.nan, 0.0
    return min(max(total / mass, float(low)), float(high)), min(mass, 1.0)
