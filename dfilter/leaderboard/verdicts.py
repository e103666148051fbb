"""Verdicts: which differences hold for a whole table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dfilter.leaderboard.differences import withstood
from dfilter.leaderboard.panel import equal_length
from dfilter.leaderboard.reach import detectable, fewest_prompts, missing
from dfilter.leaderboard.statistics import ALPHA, holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dfilter.leaderboard.agreement import Tally
    from dfilter.leaderboard.decision import Decision
    from dfilter.leaderboard.differences import Difference
    from dfilter.leaderboard.measured import Estimate
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
        tokens_ratio: trained tokens over those of random of the same size; NaN when not known.
        equal_tokens: tokens of random of the same size, as ``--keep`` takes them; NaN when not known.
        against_full: non-inferior, inferior, inconclusive, or "" where none can be given.
        ranks: interval of the rank among the strategies of this budget, 1 the best.
        judges: difference to parity or random by judge, when several were asked.
        tallies: wins, ties and losses by test set, for pairwise judgements.
        winning: winning score by test set, from 0 to 2.
        length_controlled: win rate at equal length, low, high.
        reason: why there is no value, or no verdict; else empty.
        wanting: what keeps the table from finding any difference: prompts, seeds, or both; else empty.
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
    tokens_ratio: float = math.nan
    equal_tokens: float = math.nan
    against_full: str = ""
    ranks: tuple[int, int] | None = None
    judges: Mapping[str, Estimate] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    winning: Mapping[str, Estimate] = field(default_factory=dict)
    length_controlled: tuple[float, float, float] | None = None
    reason: str = ""
    wanting: str = ""


@dataclass(eq=False)
class Draft:
    """A row, the differences it was made of, and whether it is one of the table's tests."""

    row: Row
    panel: Panel
    random: Difference | None
    full: Difference | None
    tested: bool


def judge(drafts: list[Draft], margin: float | None) -> None:
    """Give every row its adjusted p, its verdicts, and the interval and the power of what decides them."""
    tested = [d for d in drafts if d.tested]
    peers = [_peers(d, tested) for d in tested]
    decisions = [withstood(d.random, p) if d.random else None for d, p in zip(tested, peers, strict=True)]
    p = holm([decision.p() if decision else 1.0 for decision in decisions])  # one prompt says nothing
    same = holm([_equal(decision, margin) for decision in decisions])
    for draft, family, decision, adjusted, equal in zip(tested, peers, decisions, p, same, strict=True):
        _show(draft, family, decision, len(tested))
        word = "" if draft.row.reason else _verdict(draft, float(adjusted), float(equal), margin)
        draft.row = replace(draft.row, p=float(adjusted), verdict=word)
    for draft in drafts:
        _from_parity(draft)
    if margin is not None:
        _against_full(drafts, margin)


def _peers(draft: Draft, family: list[Draft], *, is_full: bool = False) -> list[TwoWay]:
    """Return the strategies of the same table and budget, each alone where there is a reference."""
    found = [
        d.full if is_full else d.random
        for d in family
        if d.panel is draft.panel and d.row.budget == draft.row.budget
    ]
    return [way for f in found if f is not None and (way := f.own or f.way) is not None]


def _equal(decision: Decision | None, margin: float | None) -> float:
    """Return the p of two one-sided tests: "the true difference is ``margin`` or more, either way"."""
    if margin is None:
        return math.nan
    if decision is None:
        return 1.0
    return max(decision.beyond(-margin, up=True), decision.beyond(margin, up=False))


def _show(draft: Draft, peers: Sequence[TwoWay], decision: Decision | None, tests: int) -> None:
    """Give the difference to the reference the interval that decides, and the power of the decision."""
    found, shown = draft.random, draft.row.random
    if found is None or shown is None:
        return
    shown = replace(shown, detectable=detectable(found, peers, tests, up=draft.panel.metric.higher_is_better))
    wanting = missing(found, peers, tests) if shown.detectable == math.inf else ""
    if decision:
        low, high = decision.interval()
        shown = replace(shown, low=low, high=high)
    draft.row = replace(draft.row, random=shown, wanting=wanting)


def _from_parity(draft: Draft) -> None:
    """Give values that are comparisons already the interval of their difference to parity."""
    found, row, null = draft.random, draft.row, draft.panel.null
    if found is None or row.random is None or null is None or not found.parity:
        return
    low, high = row.random.low + null, row.random.high + null
    value = replace(row.value, low=low, high=high, method=row.random.method)
    fitted = row.length_controlled and equal_length(row.length_controlled, value)
    draft.row = replace(row, value=value, length_controlled=fitted)


def _against_full(drafts: list[Draft], margin: float) -> None:
    rivals = [d for d in drafts if d.full and d.full.way and d.full.estimate.seeds >= VERDICT_SEEDS]
    rivals = [d for d in rivals if d.full and d.full.way and d.full.way.n >= fewest_prompts()]
    kept, lost = [], []
    for draft in rivals:
        peers = _peers(draft, rivals, is_full=True)
        decision = withstood(draft.full, peers) if draft.full else None
        up = draft.panel.metric.higher_is_better
        bound = -margin if up else margin  # at most so much worse than full
        kept.append(decision.beyond(bound, up=up) if decision else 1.0)
        lost.append(decision.beyond(bound, up=not up) if decision else 1.0)
    for draft, good, bad in zip(rivals, holm(kept), holm(lost), strict=True):
        word = "non-inferior" if good <= ALPHA / 2 else "inferior" if bad <= ALPHA / 2 else "inconclusive"
        draft.row = replace(draft.row, against_full=word)


def _verdict(draft: Draft, p: float, equal: float, margin: float | None) -> str:
    found = draft.row.random
    if found is None:
        return ""
    if margin is not None and -margin < found.low and found.high < margin and equal <= ALPHA:
        return "equivalent"  # whatever its p: a difference this small does not matter
    if p <= ALPHA:
        return "better" if (found.value > 0) == draft.panel.metric.higher_is_better else "worse"
    return "inconclusive"


def without_verdict(found: Difference) -> str:
    """Say what is missing for a verdict: seeds, or prompts, or both; empty where nothing is."""
    seeds, prompts = found.estimate.seeds, found.estimate.prompts
    groups = found.way.n if found.way else 1
    held, needed = [], []
    if seeds < VERDICT_SEEDS:
        held.append("one training seed" if seeds == 1 else f"{seeds} training seeds")
        needed.append("three seeds")
    if groups < fewest_prompts():
        apart = "" if groups == prompts else f" in {groups} clusters" if groups > 1 else " in one cluster"
        held.append(("one prompt" if prompts == 1 else f"{prompts} prompts") + apart)
        needed.append("six clusters" if apart else "six prompts")
    if not held:
        return ""
    verb = "allows" if len(held) == 1 and held[0].startswith("one ") else "allow"
    some = "intervals but no verdicts" if math.isfinite(found.estimate.low) else "no verdicts"
    return f"{' and '.join(held)} {verb} {some} ({' and '.join(needed)} are needed)"
