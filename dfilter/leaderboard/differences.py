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
from dfilter.leaderboard.statistics import (
    ONE_SEED,
    TwoWay,
    minus,
    quantile,
    rate_interval,
    square_and_add,
    two_way,
    wilson,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Difference:
    """One strategy minus another on the same prompts and seeds.

    Attributes:
        estimate: with interval.
        way: its variance by source; none when fewer than two prompts are shared.
        own: the strategy alone, on the same prompts and seeds.
        reference: the other alone, or none where the values are comparisons already.
        decision: what it is tested against; none when fewer than two prompts are shared.
        share: the values are shares of 1.
        parity: the values were comparisons already.
    """

    estimate: Estimate
    way: TwoWay | None
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
    own, other = two_way(one, labels), two_way(two, labels)
    parts = _parts(apart, labels)
    at_end = share and (extreme(own) or extreme(other) or not np.any(parts))
    ends = rate_ends(way, own, other, differ=bool(np.any(parts))) if at_end else None
    decision = Decision(
        float(way.mean),
        ((float(way.variance), float(way.df)),),
        sign_flips(parts),
        ends,
        (-1.0, 1.0) if share else (-math.inf, math.inf),
    )
    return Difference(_decided(made, decision, "square-and-add"), way, own, other, decision, share)


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
    share = replace(way, mean=way.mean + null)

    def ends(alpha: float) -> tuple[float, float]:
        low, high = rate_interval(share, 1 - alpha)
        return low - null, high - null

    decision = Decision(
        float(way.mean),
        ((float(way.variance), float(way.df)),),
        sign_flips(_parts(apart[:, keep], labels)),
        ends if measured.rate and (extreme(share) or still(way)) else None,
        (-null, 1 - null) if measured.rate else (-math.inf, math.inf),
    )
    shown = _decided(made, decision, "Wilson")
    return Difference(shown, way, decision=decision, share=measured.rate, parity=True)


def _parts(table: NDArray[np.float64], labels: list[str]) -> NDArray[np.float64]:
    """Return what each cluster of prompts adds to the mean of a (k, n) table."""
    place = np.unique(labels, return_inverse=True)[1]
    return np.asarray(np.bincount(place, weights=table.mean(0) / table.shape[1]), np.float64)


def _decided(made: Estimate, decision: Decision, at_ends: str) -> Estimate:
    """Give an estimate the interval of its decision."""
    low, high = decision.interval()
    method = made.method
    if decision.ends:
        method = at_ends if made.seeds > 1 else f"{at_ends}; {ONE_SEED}"
    return replace(made, low=low, high=high, method=method)


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
