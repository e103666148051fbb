"""From results to estimates: seed-by-prompt tables, and the differences between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dfilter.errors import InputError
from dfilter.leaderboard.statistics import (
    ONE_SEED,
    TwoWay,
    detectable,
    interval,
    rate_interval,
    square_and_add,
    two_way,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dfilter.types import EvalResult, Json

FEW_PROMPTS = 200  # below this a normal interval of a rate is not to be trusted (arXiv 2503.01747)
FEW_OUTCOMES = 10  # nor with fewer successes or failures than this


@dataclass(frozen=True)
class Estimate:
    """A value, or a difference of two, with its 95% interval.

    Attributes:
        value: mean over seeds and prompts.
        low: lower end; NaN when no interval can be given.
        high: upper end.
        se: standard error.
        df: its degrees of freedom.
        seeds: training seeds.
        prompts: prompts used; those that lack a value in any seed are left out.
        excluded: prompts left out.
        detectable: smallest true difference that would be found with a probability of 80%.
        method: how the interval was made.
    """

    value: float
    low: float
    high: float
    se: float
    df: float
    seeds: int
    prompts: int
    excluded: int
    detectable: float
    method: str


@dataclass(frozen=True, eq=False)
class Measured:
    """One strategy at one budget on one metric.

    Attributes:
        seeds: (k,) ascending.
        prompts: (n,) ids.
        values: (k, n), NaN where there is no value.
        clusters: (n,) label of each prompt's cluster.
        rate: the values are rates in [0, 1].
    """

    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    values: NDArray[np.float64]
    clusters: tuple[str, ...]
    rate: bool = False

    def select(self, seeds: Sequence[int], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return the table of these seeds and prompts, in this order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        if tuple(prompts) == self.prompts:
            return self.values[rows]
        place = {prompt: index for index, prompt in enumerate(self.prompts)}
        return np.asarray(self.values[np.ix_(rows, [place[prompt] for prompt in prompts])])


def measure(name: str, results: Mapping[int, EvalResult], judge: str = "") -> Measured:
    """Join the results of several seeds on their prompts.

    Args:
        name: of the evaluation, for messages.
        results: by seed; at least one.
        judge: take this judge's values (see :mod:`dfilter.leaderboard.cells`) instead of the pooled ones.

    Raises:
        InputError: a prompt id occurs twice in one result.
    """
    seeds = tuple(sorted(results))
    first = results[seeds[0]]
    prompts = tuple(first.prompts)
    if len(set(prompts)) != len(prompts):
        raise InputError(f"Evaluation '{name}' names a prompt twice; every prompt needs an id of its own.")
    shared = set(prompts).intersection(*(results[s].prompts for s in seeds[1:]))
    kept = prompts if len(shared) == len(prompts) else tuple(p for p in prompts if p in shared)
    table = np.stack([_aligned(results[seed], kept, judge) for seed in seeds])
    labels = first.facts.get("clusters")
    by_prompt = dict(zip(prompts, labels, strict=True)) if isinstance(labels, list | tuple) else {}
    return Measured(
        seeds,
        kept,
        table,
        tuple(f"c{by_prompt[p]}" if p in by_prompt else f"p{p}" for p in kept),
        _is_rate(first, table),
    )


def _aligned(result: EvalResult, prompts: tuple[str, ...], judge: str) -> NDArray[np.float64]:
    values = np.asarray(result.values, dtype=np.float64)
    if judge:
        judges = result.facts.get("judges")
        given = judges.get(judge) if isinstance(judges, Mapping) else None
        values = np.array(numbers(given) or [math.nan] * values.size, dtype=np.float64)
    if tuple(result.prompts) == prompts:
        return values
    place = {prompt: index for index, prompt in enumerate(result.prompts)}
    return np.asarray(values[[place[prompt] for prompt in prompts]])


def numbers(given: Json) -> list[float]:
    """Return a list of facts as numbers, null as NaN; empty when it is no list."""
    items = given if isinstance(given, list | tuple) else ()
    return [float(item) if isinstance(item, int | float) else math.nan for item in items]


def _is_rate(result: EvalResult, table: NDArray[np.float64]) -> bool:
    if "bounds" in result.facts:
        return numbers(result.facts["bounds"]) == [0.0, 1.0]
    known = table[np.isfinite(table)]
    return bool(known.size) and bool(np.isin(known, (0.0, 1.0)).all())


def complete(*tables: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which prompts have a value in every seed of every table."""
    return np.asarray(np.logical_and.reduce([np.isfinite(table).all(0) for table in tables]))


def estimate(measured: Measured) -> tuple[Estimate | None, TwoWay | None]:
    """Estimate a strategy's own value; none when no prompt has a value."""
    keep = complete(measured.values)
    labels = [label for label, kept in zip(measured.clusters, keep, strict=True) if kept]
    return _estimate(measured.values[:, keep], labels, int((~keep).sum()), rate=measured.rate)


def _estimate(
    table: NDArray[np.float64], labels: list[str], excluded: int, *, rate: bool
) -> tuple[Estimate | None, TwoWay | None]:
    k, n = table.shape
    if n == 0:
        return None, None
    if len(set(labels)) < 2:
        gap = math.nan
        return Estimate(float(table.mean()), gap, gap, gap, gap, k, n, excluded, gap, "one prompt"), None
    way = two_way(table, labels)
    low, high = (float(end) for end in interval(way))
    method = "two-way" if k > 1 else ONE_SEED
    if rate and (way.n < FEW_PROMPTS or _extreme(way)):
        (low, high), method = rate_interval(way), "Wilson" if k > 1 else f"Wilson; {ONE_SEED}"
    variance, df = float(way.variance), float(way.df)
    reach = float(detectable(variance, df))
    made = Estimate(float(way.mean), low, high, math.sqrt(variance), df, k, n, excluded, reach, method)
    return made, way


def _extreme(way: TwoWay) -> bool:
    rate = float(way.mean)
    return min(rate, 1 - rate) * way.n < FEW_OUTCOMES


@dataclass(frozen=True, eq=False)
class Difference:
    """One strategy minus another on the same prompts and seeds.

    Attributes:
        estimate: with interval.
        way: its variance by source; none when fewer than two prompts are shared.
        own: the strategy alone, on the same prompts and seeds.
        reference: the other alone, or none where the values are comparisons already.
    """

    estimate: Estimate
    way: TwoWay | None
    own: TwoWay | None
    reference: TwoWay | None


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
        shifted = replace(measured, values=measured.values - null, rate=False)
        made, way = estimate(shifted)
        return Difference(made, way, None, None) if made else None
    if reference is None:
        return None
    seeds = [seed for seed in measured.seeds if seed in set(reference.seeds)]
    there = set(reference.prompts)
    same = measured.prompts == reference.prompts
    prompts = measured.prompts if same else tuple(p for p in measured.prompts if p in there)
    if not seeds or not prompts:
        return None
    one, two = measured.select(seeds, prompts), reference.select(seeds, prompts)
    keep = complete(one, two)
    one, two = one[:, keep], two[:, keep]
    cluster = dict(zip(measured.prompts, measured.clusters, strict=True))
    labels = [cluster[p] for p, kept in zip(prompts, keep, strict=True) if kept]
    made, way = _estimate(one - two, labels, int((~keep).sum()), rate=False)
    if made is None:
        return None
    if way is None:
        return Difference(made, None, None, None)
    own, other = two_way(one, labels), two_way(two, labels)
    if measured.rate and reference.rate and (_extreme(own) or _extreme(other)):
        made = _rate_difference(made, way, own, other)
    return Difference(made, way, own, other)


def _rate_difference(made: Estimate, way: TwoWay, own: TwoWay, other: TwoWay) -> Estimate:
    """Give a difference of rates near 0 or 1 an interval that is not empty when nothing varies."""
    product = math.sqrt(float(own.variance) * float(other.variance))
    shared = (float(own.variance) + float(other.variance) - float(way.variance)) / 2
    correlation = min(max(shared / product, -1.0), 1.0) if product > 0 else 0.0
    low, high = square_and_add(
        (float(own.mean), *rate_interval(own)), (float(other.mean), *rate_interval(other)), correlation
    )
    method = "square-and-add" if made.seeds > 1 else f"square-and-add; {ONE_SEED}"
    return replace(made, low=low, high=high, method=method)
