"""The difference between two sets of results, paired by seed and prompt, and what it is tested against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dfilter.leaderboard.decision import Decision
from dfilter.leaderboard.flips import sign_flips
from dfilter.leaderboard.measured import (
    Estimate,
    Measured,
    complete,
    estimate,
    estimate_table,
    extreme,
    single,
    still,
)
from dfilter.leaderboard.skewness import third_moment
from dfilter.leaderboard.statistics import (
    ONE_SEED,
    TwoWay,
    minus,
    pooled,
    quantile,
    rate_interval,
    square_and_add,
    two_way,
    wilson,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Difference:
    """One strategy minus another on the same prompts and seeds.

    Attributes:
        estimate: with interval.
        way: its variance by source; none when fewer than two prompts are shared.
        tables: (k, n) values of both, without gaps; or of the one, and the value that means parity.
        labels: (n,) cluster of each prompt.
        own: the strategy alone, on the same prompts and seeds.
        reference: the other alone, or none where the values are comparisons already.
        decision: what it is tested against; none when fewer than two prompts are shared.
        share: the values are shares of 1.
        parity: the values were comparisons already.
    """

    estimate: Estimate
    way: TwoWay | None
    tables: tuple[NDArray[np.float64], NDArray[np.float64] | float] = (np.empty((0, 0)), 0.0)
    labels: Sequence[str] = ()
    own: TwoWay | None = None
    reference: TwoWay | None = None
    decision: Decision | None = None
    share: bool = False
    parity: bool = False


def difference(
    measured: Measured, reference: Measured | None, null: float | None = None
) -> Difference | None:
    """Return ``measured`` minus ``reference``, paired by seed and prompt; none when nothing is shared.

    Args:
        measured: the strategy.
        reference: what it is compared with.
        null: for values that are comparisons already: the value that means parity. The reference is
            not looked at then.
    """
    if null is not None:
        return _from_parity(measured, null)
    if reference is None:
        return None
    one, two, labels, excluded = _paired(measured, reference)
    apart, size = minus(one, two), max(np.abs(one).max(initial=0.0), np.abs(two).max(initial=0.0))
    made, way = estimate_table(apart, labels, excluded, rate=False, size=float(size))
    if made is None:
        return None
    share = measured.rate and reference.rate
    if way is None:
        if share:
            low, high = square_and_add(single(one), single(two), 0.0)
            made = replace(made, low=low, high=high)
        return Difference(made, None, share=share)
    return _decided(tested(Difference(made, way, tables=(one, two), labels=labels, share=share)))


def tested(found: Difference) -> Difference:
    """Return a difference with its variances and its decision worked out from its tables."""
    one, two = found.tables
    apart = minus(one, two)
    if isinstance(two, float):
        return _tested_by_parity(found, apart, two)
    size = max(np.abs(one).max(initial=0.0), np.abs(two).max(initial=0.0))
    way, own, other = (
        two_way(apart, found.labels, size),
        two_way(one, found.labels),
        two_way(two, found.labels),
    )
    decision = _decision(way, apart, found.labels)
    if found.share:
        differ = bool(np.any(apart.mean(0)))
        at_end = extreme(own) or extreme(other) or not differ
        ends = rate_ends(way, own, other, differ=differ) if at_end else None
        decision = replace(decision, ends=ends, bounds=(-1.0, 1.0))
    return replace(found, way=way, own=own, reference=other, decision=decision)


def withstood(found: Difference, peers: Sequence[TwoWay]) -> Decision | None:
    """Return what decides: the difference must withstand its own training noise and that of its table."""
    if found.decision is None or found.way is None:
        return None
    variance, df = pooled(found.way, peers or [found.way], found.reference)
    return found.decision.also(float(variance), float(df))


def _paired(
    measured: Measured, reference: Measured
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], int]:
    """Return (k, n) tables of the same seeds and prompts, the clusters, and how many prompts are left out."""
    seeds = [seed for seed in measured.seeds if seed in set(reference.seeds)]
    there = set(reference.prompts)
    same = measured.prompts == reference.prompts
    prompts = measured.prompts if same else tuple(p for p in measured.prompts if p in there)
    one, two = measured.select(seeds, prompts), reference.select(seeds, prompts)
    keep = complete(one, two) if seeds else np.zeros(len(prompts), np.bool_)
    cluster = dict(zip(measured.prompts, measured.clusters, strict=True))
    labels = [cluster[p] for p, kept in zip(prompts, keep, strict=True) if kept]
    return one[:, keep], two[:, keep], labels, int((~keep).sum())


def _from_parity(measured: Measured, null: float) -> Difference | None:
    """Return values that are comparisons already, minus the value that means parity."""
    apart = minus(measured.values, null)
    made, way = estimate(replace(measured, values=apart, rate=False))
    if made is None:
        return None
    if way is None:
        value, _ = estimate(measured)
        low, high = (value.low - null, value.high - null) if value else (math.nan, math.nan)
        return Difference(replace(made, low=low, high=high), None, share=measured.rate, parity=True)
    keep = complete(measured.values)
    labels = [label for label, kept in zip(measured.clusters, keep, strict=True) if kept]
    values = measured.values[:, keep]
    found = Difference(
        made, way, tables=(values, float(null)), labels=labels, share=measured.rate, parity=True
    )
    return _decided(tested(found))


def _tested_by_parity(found: Difference, apart: NDArray[np.float64], null: float) -> Difference:
    way = two_way(apart, found.labels)
    share = replace(way, mean=way.mean + null)

    def ends(alpha: float) -> tuple[float, float]:
        low, high = rate_interval(share, 1 - alpha)
        return low - null, high - null

    decision = _decision(way, apart, found.labels)
    if found.share:
        at_end = extreme(share) or still(way)
        decision = replace(decision, ends=ends if at_end else None, bounds=(-null, 1 - null))
    return replace(found, way=way, decision=decision)


def _decision(way: TwoWay, apart: NDArray[np.float64], labels: Sequence[str]) -> Decision:
    place = np.unique(labels, return_inverse=True)[1]
    parts = np.bincount(place, weights=apart.mean(0)) / apart.shape[1]  # of each cluster, to the mean
    mean = float(way.mean)
    return Decision(
        mean,
        ((float(way.variance), float(way.df)),),
        sign_flips(parts),
        skew=third_moment(parts - np.bincount(place) * mean / apart.shape[1]),
    )


def _decided(found: Difference) -> Difference:
    """Give the estimate of a difference the interval of its decision."""
    if found.decision is None:
        return found
    made = found.estimate
    low, high = found.decision.interval()
    method = made.method
    if found.decision.ends:
        at_ends = "Wilson" if found.parity else "square-and-add"
        method = at_ends if made.seeds > 1 else f"{at_ends}; {ONE_SEED}"
    return replace(found, estimate=replace(made, low=low, high=high, method=method))


def rate_ends(
    way: TwoWay, own: TwoWay, other: TwoWay, *, differ: bool
) -> Callable[[float], tuple[float, float]]:
    """Return the interval of a difference of rates, by level, that is not empty when nothing varies."""
    product = math.sqrt(float(own.variance) * float(other.variance))
    shared = (float(own.variance) + float(other.variance) - float(way.variance)) / 2
    correlation = min(max(shared / product, -1.0), 1.0) if product > 0 else 0.0

    def ends(alpha: float) -> tuple[float, float]:
        low, high = square_and_add(
            (float(own.mean), *rate_interval(own, 1 - alpha)),
            (float(other.mean), *rate_interval(other, 1 - alpha)),
            correlation,
        )
        if not differ:  # both answer alike on all prompts: so many may still differ on others
            unseen = float(wilson(0.0, way.n, quantile(way.n - 1, 1 - alpha))[1])
            low, high = min(low, -unseen), max(high, unseen)
        return low, high

    return ends
