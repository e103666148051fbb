"""LIMA: rules for good answers from public sources.

LIMA: Less Is More for Alignment (arXiv:2305.11206), §2.1: from Stack Exchange it takes the answers
with the best score, between 1,200 and 4,096 characters, that are not in the first person and do not
refer to other answers; links, images and HTML are removed, code blocks and lists stay; exchanges are
drawn with a temperature of 3, the same number from two sets of them. No code was released: how the
rules are recognised is ours.

The rules curate a source: of Alpaca's 52,002 rows 514 have the length. So they gate where no budget
is given, and rank where one is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dfilter.errors import InputError, SettingsError
from dfilter.filters.cleaning import cleaned
from dfilter.filters.order import content_places
from dfilter.looked_at import Turns, over_turns, refuse_unknown
from dfilter.selector import as_groups
from dfilter.types import Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool

# arXiv:2305.11206 §2.1, "Stack Exchange"
MIN_CHARACTERS = 1_200
MAX_CHARACTERS = 4_096
MIN_SOURCE_SCORE = 10.0
TAU = 3.0

FIRST_PERSON = re.compile(r"\b(?:I|[Mm]y)\b")
REFERENCES = re.compile(
    r"\bas (?:(?:was|is|already|others?(?: have)?) )?(?:mentioned|stated|noted|pointed out|suggested)\b"
    r"|\bstack ?(?:exchange|overflow)\b|\b(?:other|another|previous|accepted|above) answers?\b"
    r"|\banswers? (?:above|below|by)\b|\b(?:this|your|the original) (?:post|poster|OP)\b"
    r"|\bcomments? (?:above|below)\b|(?<!\S)@\w+|\b(?:up|down)-?vot\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LIMA:
    """Answers of a good length, impersonal and self-contained; curated by source where rows name one.

    A score of 0 or more passes every rule. Below 0 it is minus the number of rules failed, and minus
    how far the length misses its range (0 to 1), so that the nearest misses come first.

    Attributes:
        rules: which of length, first_person and references apply.
        min_characters: shortest response, after cleaning.
        max_characters: longest response, after cleaning.
        clean: take links, images and HTML away before the rules look; the row itself is not changed
            (the transform of this name does that).
        groups: columns that name a row's source, outer before inner, as in ``set/exchange``. The
            outer ones get equal shares; the innermost ones share in proportion to n^(1/tau), n being
            their rows that pass. Every prefix of the ranking keeps to these shares.
        tau: 1 is proportional, 2 the square root, inf equal.
        score_column: the source's own score of an answer; the best ones of each group come first.
        min_source_score: lowest score, a rule of its own where ``score_column`` is given.
        turns: which replies of a conversation are looked at, see :mod:`dfilter.looked_at`; all or last where
            there are groups.
    """

    rules: tuple[Literal["length", "first_person", "references"], ...] = (
        "length",
        "first_person",
        "references",
    )
    min_characters: int = MIN_CHARACTERS
    max_characters: int = MAX_CHARACTERS
    clean: bool = True
    groups: str = ""
    tau: float = TAU
    score_column: str = ""
    min_source_score: float = MIN_SOURCE_SCORE
    turns: Turns = "all"

    paper: ClassVar[str] = "arXiv:2305.11206"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "what is to be learnt; columns that name its source and score"

    def __post_init__(self) -> None:
        refuse_unknown(self.turns)
        findings = [f"rules: there is no rule '{r}'." for r in self.rules if r not in _KNOWN]
        if not 0 <= self.min_characters <= self.max_characters:
            found = f"{self.min_characters} to {self.max_characters}"
            findings.append(f"The length runs from {found} characters; expected 0 <= min <= max.")
        if not self.tau >= 1:
            findings.append(f"tau = {self.tau} must be at least 1.")
        if (self.groups or self.score_column) and self.turns in {"mean", "min"}:
            findings.append(f"lima: groups share out rows, so turns = '{self.turns}' goes without them.")
        if findings:
            raise SettingsError(*findings)

    def score(self, pool: Pool) -> Scores:
        """Return 0 or more for rows that pass every rule, below 0 for the others; a reason for each."""
        return over_turns(pool, self.turns, self._judged)

    def _judged(self, pool: Pool) -> Scores:
        source = self._source_scores(pool)
        values = np.zeros(len(pool.rows))
        reasons = []
        failures = dict.fromkeys((*_KNOWN, "source_score"), 0)
        for place, row in enumerate(pool.rows):
            text = cleaned(row.response) if self.clean else row.response
            failed = self._failed(text)
            if source is not None and not source[place] >= self.min_source_score:
                failed["source_score"] = f"source score {source[place]:g} < {self.min_source_score:g}"
            for rule in failed:
                failures[rule] += 1
            values[place] = -(len(failed) + self._miss(len(text)) * ("length" in failed))
            reasons.append("; ".join(failed.values()) or "passes all rules")
        passed = values == 0
        facts: dict[str, Any] = {"passed": int(passed.sum())}
        facts |= {f"failed_{rule}": count for rule, count in failures.items() if count}
        groups = None
        if self.groups or source is not None:
            columns = [as_groups(pool.rows.column(name)) for name in self.groups.split("/") if name]
            place_in_order = shared_order(passed, columns, source, self.tau, content_places(pool.rows))
            values[passed] = 1 - place_in_order / max(1, passed.sum())
            groups = columns[-1] if columns else None
        return Scores(values, groups=groups, reasons=reasons, facts=facts)

    def _failed(self, text: str) -> dict[str, str]:
        found = {}
        if "length" in self.rules and not self.min_characters <= len(text) <= self.max_characters:
            found["length"] = f"{len(text):,} characters"
        if "first_person" in self.rules and FIRST_PERSON.search(text):
            found["first_person"] = "first person"
        if "references" in self.rules and (match := REFERENCES.search(text)):
            found["references"] = f"refers to other answers ('{match[0]}')"
        return found

    def _miss(self, length: int) -> float:
        """How far a length misses the range: 0 within it, towards 1 far outside of it."""
        if length < self.min_characters:
            return (self.min_characters - length) / (self.min_characters + 1)
        return max(0, length - self.max_characters) / max(1, length)

    def _source_scores(self, pool: Pool) -> NDArray[np.float64] | None:
        if not self.score_column:
            return None
        column = pool.rows.column(self.score_column)
        try:
            return np.array([np.nan if value is None else float(value) for value in column])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The column '{self.score_column}' holds something that is no number ({error});"
                " name another one as score_column."
            ) from error


_KNOWN = ("length", "first_person", "references")


def shared_order(
    passed: NDArray[np.bool_],
    columns: Sequence[NDArray[np.int64]],
    source: NDArray[np.float64] | None,
    tau: float,
    tie: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the place of every passing row in an order whose every prefix keeps the groups' shares.

    Row number r (from 0) of a group of weight w stands at (2r + 1) / w, the divisors of Webster and
    Sainte-Laguë, so that no budget has to be known. The innermost groups are merged into the order of
    the group that holds them, with weights n^(1/tau); that again with equal weights.

    Args:
        passed: (n,) rows to order.
        columns: (n,) group numbers, outer column first.
        source: (n,) scores that order the rows of a group, best first, or none.
        tau: temperature of the innermost column.
        tie: (n,) distinct numbers that break ties, the smallest first.
    """
    rows = np.flatnonzero(passed)
    best = np.zeros(len(rows)) if source is None else -source[rows]
    place = _places(np.lexsort((tie[rows], best)))
    for depth in range(len(columns) - 1, -1, -1):
        path = np.stack([column[rows] for column in columns[: depth + 1]])
        group = np.unique(path, axis=1, return_inverse=True)[1].reshape(-1)
        sizes = np.bincount(group)
        weights = sizes ** (1 / tau) if depth == len(columns) - 1 else np.ones(len(sizes))
        inside = _rank_within(group, place)
        place = _places(np.lexsort((tie[rows], (2 * inside + 1) / weights[group])))
    return place


def _places(order: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _rank_within(group: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank of every row among the rows of its group, from 0."""
    order = np.lexsort((place, group))
    sizes = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return rank
