"""Verdicts: which differences hold for a whole table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dfilter.leaderboard.statistics import ALPHA, equivalence, holm, pooled, tail, two_sided

if TYPE_CHECKING:
    from dfilter.leaderboard.agreement import Tally
    from dfilter.leaderboard.measured import Difference, Estimate
    from dfilter.leaderboard.panel import Panel
    from dfilter.leaderboard.statistics import TwoWay

VERDICT_SEEDS = 3


@dataclass(frozen=True)
class Row:
    """One strategy at one budget on one metric.

    Attributes:
        metric: name of the evaluation.
        strategy: its name.
        budget: as asked for.
        seeds: seeds with a result.
        short: gave fewer rows than the budget.
        figures: rows, tokens, lengths, overlaps and costs, each the mean over seeds; absent when unknown.
        contaminated: most test prompts that any seed's selection contains.
        value: the metric itself.
        random: difference to random of the same size.
        longest: difference to longest of the same size.
        full: difference to training on everything.
        p: of the difference to random, adjusted by Holm over the whole table; NaN below three seeds.
        verdict: better, worse, equivalent, inconclusive, or "" where none can be given.
        against_full: non-inferior, inferior, inconclusive, or "" where none can be given.
        ranks: interval of the rank among the strategies of this budget, 1 the best.
        judges: difference to parity or random by judge, when several were asked.
        tallies: wins, ties and losses by test set, for pairwise judgements.
        winning: winning score by test set, from 0 to 2.
        length_controlled: win rate at equal length, low, high.
    """

    metric: str
    strategy: str
    budget: str
    seeds: tuple[int, ...]
    short: bool
    figures: Mapping[str, float]
    contaminated: int
    value: Estimate
    random: Estimate | None = None
    longest: Estimate | None = None
    full: Estimate | None = None
    p: float = math.nan
    verdict: str = ""
    against_full: str = ""
    ranks: tuple[int, int] | None = None
    judges: Mapping[str, Estimate] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    winning: Mapping[str, Estimate] = field(default_factory=dict)
    length_controlled: tuple[float, float, float] | None = None


@dataclass(eq=False)
class Draft:
    """A row, the differences it was made of, and whether it is one of the table's tests."""

    row: Row
    panel: Panel
    random: Difference | None
    full: Difference | None
    tested: bool


def judge(drafts: list[Draft], margin: float | None) -> None:
    """Give every row its adjusted p and its verdicts."""
    tested = [d for d in drafts if d.tested]
    p = holm([_worst(d, tested, d.random, "zero") for d in tested])
    same = holm([_worst(d, tested, d.random, "equal", margin) for d in tested])
    for draft, adjusted, equal in zip(tested, p, same, strict=True):
        word = _verdict(draft, float(adjusted), float(equal), margin)
        draft.row = replace(draft.row, p=float(adjusted), verdict=word)
    if margin is None:
        return
    rivals = [d for d in drafts if d.full and d.full.way and d.full.estimate.seeds >= VERDICT_SEEDS]
    kept = holm([_worst(d, rivals, d.full, "kept", margin) for d in rivals])
    lost = holm([_worst(d, rivals, d.full, "lost", margin) for d in rivals])
    for draft, good, bad in zip(rivals, kept, lost, strict=True):
        word = "non-inferior" if good <= ALPHA / 2 else "inferior" if bad <= ALPHA / 2 else "inconclusive"
        draft.row = replace(draft.row, against_full=word)


def _worst(
    draft: Draft, family: list[Draft], found: Difference | None, question: str, margin: float | None = None
) -> float:
    """Return the larger p of two: with the difference's own training noise, and with the table's."""
    if found is None or found.way is None or (margin is None and question != "zero"):
        return math.nan
    way = found.way
    peers = [
        peer
        for d in family
        if d.panel is draft.panel
        and d.row.budget == draft.row.budget
        and (peer := _alone(d, is_full=found is draft.full)) is not None
    ]
    sign = 1.0 if draft.panel.metric.higher_is_better else -1.0
    distance = sign * float(way.mean)
    worst = 0.0
    for variance, df in ((way.variance, way.df), pooled(way, peers or [way], found.reference)):
        if question == "zero":
            p = two_sided(distance, variance, df)
        elif question == "equal":
            p = equivalence(distance, margin or 0.0, variance, df)
        else:
            far = distance + (margin or 0.0)
            p = tail(far if question == "kept" else -far, variance, df)
        worst = max(worst, float(p))
    return worst


def _alone(draft: Draft, *, is_full: bool) -> TwoWay | None:
    found = draft.full if is_full else draft.random
    if found is None:
        return None
    return found.own or found.way


def _verdict(draft: Draft, p: float, equal: float, margin: float | None) -> str:
    found = draft.row.random
    if found is None:
        return ""
    if margin is not None and -margin < found.low and found.high < margin and equal <= ALPHA:
        return "equivalent"  # whatever its p: a difference this small does not matter
    if p <= ALPHA and (found.low > 0 or found.high < 0):
        return "better" if (found.value > 0) == draft.panel.metric.higher_is_better else "worse"
    return "inconclusive"
