"""Reading a rating out of a judge's answer: from its text, or from its log probabilities.

Released parsers take the first character, the first bracket or minus one (see the tests for what
that does to real answers). Here a number counts only where it is surely the answer; anything else is
unparsed, and nothing outside the scale is a rating. What "surely" means stands in ``grammar``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dfilter.llm.answers import OK, UNPARSED, Reading, Reply, unanswered
from dfilter.llm.grammar import verdict
from dfilter.llm.reading import OPENING, plain, settled
from dfilter.llm.scales import Numbers

LIKELY = 0.05  # a token with as much probability is named when it is no score
BLANK = re.compile(r"(?:[\s▁ĠĊ]|<0x0[9AD]>|[*_`\"'“(\[#])*")


@dataclass(frozen=True)
class TextScore:
    """Reads a score from an answer's text.

    Understood are a number alone on the first line, with its scale (``4.5/5``) or a remark (``4.5 - right``);
    a labelled one (``Score: 4.5``, ``评分: 4.5``, ``<score>4.5</score>``, a table row); a sentence that gives
    one (``I give it 4/5.``); an object of JSON with one score. Where two places differ there is none.

    Attributes:
        low: the scale's lowest rating.
        high: the scale's highest rating; a denominator must be equal to it.
        asked: the criterion that the judge was asked about (``accuracy``); scores of others do not count.
    """

    low: int = 0
    high: int = 5
    asked: str = ""

    @property
    def name(self) -> str:
        """Kind and version; a change of what is understood is a new version."""
        return "score/2"

    def read(self, reply: Reply) -> Reading:
        """Return the rating, or why there is none."""
        values = Numbers(self.low, self.high)
        return settled(reply, lambda text, cut: verdict(text, values, asked=self.asked, cut=cut))


@dataclass(frozen=True)
class ExpectedScore:
    """Reads the mean of the scale's whole numbers under the probabilities of one token.

    It is the answer's first token that is not blank: some models begin with a blank, a line end or an
    opening mark (``**``).

    Attributes:
        low: the scale's lowest rating, one digit.
        high: the scale's highest rating, one digit.

    How much mass a rating must have is for whoever uses it to say: the ledger keeps both, and the reason
    says which other tokens were likely.
    """

    low: int = 0
    high: int = 5

    @property
    def name(self) -> str:
        """Kind and version."""
        return "expected/2"

    def read(self, reply: Reply) -> Reading:
        """Return the rating with the mass it covers, or why there is none."""
        missing = unanswered(reply)
        if missing is not None:
            return missing
        if not reply.logprobs:
            return Reading(UNPARSED, reason="the answer has no log probabilities")
        if OPENING.match("".join(token for token, _ in reply.logprobs)):
            return Reading(
                UNPARSED, reason="the model begins with its thoughts; ask one that answers without"
            )
        tops = first_said(reply)
        if tops is None:
            mass = expectation(reply.logprobs[-1][1], self.low, self.high)[1]
            return Reading(UNPARSED, math.nan, mass, f"the answer ends in blank tokens: {last_said(reply)}")
        value, mass = expectation(tops, self.low, self.high)
        stood = _likely(tops, self.low, self.high)
        if mass <= 0.0:
            return Reading(UNPARSED, math.nan, 0.0, f"no score is among the likely tokens: {_likely(tops)}")
        return Reading(OK, value, mass, f"besides scores: {stood}" if stood else "")


def first_said(reply: Reply) -> tuple[tuple[str, float], ...] | None:
    """Return the alternatives of an answer's first token that is not blank; none where all are."""
    return next((tops for token, tops in reply.logprobs if not BLANK.fullmatch(token)), None)


def last_said(reply: Reply) -> str:
    """Return the likely alternatives of an answer's last token, as a reason shows them."""
    return _likely(reply.logprobs[-1][1])


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
    for token, log in tokens:
        value = _digit(token, low, high)
        if value is not None:
            p = math.exp(min(log, 0.0))
            mass += p
            total += p * value
    if mass <= 0.0:
        return math.nan, 0.0
    return min(max(total / mass, float(low)), float(high)), min(mass, 1.0)


def _digit(token: str, low: int, high: int) -> int | None:
    text = plain(token.replace("▁", " ").replace("Ġ", " ")).strip()
    return int(text) if len(text) == 1 and text.isdecimal() and low <= int(text) <= high else None


def _likely(tokens: Iterable[tuple[str, float]], low: int = 1, high: int = 0) -> str:
    """Return the likely tokens that are no score, the likeliest first, as a reason shows them."""
    found = [(math.exp(min(log, 0.0)), token) for token, log in tokens if _digit(token, low, high) is None]
    likely = sorted((item for item in found if item[0] >= LIKELY), key=lambda item: -item[0])[:3]
    return ", ".join(f"{token[:20]!r} {p:.2f}" for p, token in likely)
