"""From results to estimates: seed-by-prompt tables, and what each says by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfilter.errors import InputError
from dfilter.leaderboard.statistics import ONE_SEED, TwoWay, interval, rate_interval, two_way, wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
        detectable: smallest true difference that the table's test finds with a probability of 80%, the
            other strategies being like the reference; infinite where so few prompts find none, NaN where
            there is no test.
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


def measure(name: str, results: Mapping[int, EvalResult], judge: str = "", *, rate: bool) -> Measured:
    """Join the results of several seeds on their prompts.

    Args:
        name: of the evaluation, for messages.
        results: by seed; at least one.
        judge: take this judge's values (see :mod:`dfilter.leaderboard.cells`) instead of the pooled ones.
        rate: the metric is one (see :func:`are_rates`).

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
        rate,
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


def numbers(given: Json | None) -> list[float]:
    """Return a list of facts as numbers, null as NaN; empty when it is no list."""
    items = given if isinstance(given, list | tuple) else ()
    return [float(item) if isinstance(item, int | float) else math.nan for item in items]


def are_rates(results: Iterable[EvalResult]) -> bool:
    """Return whether a metric's values are rates: all of its results say that 0 and 1 are its bounds.

    The values themselves do not tell: on a scale of 1 to 6 all grades may be 1, and some losses are 0.
    A result without any value need not say it.
    """
    stated = [numbers(r.facts.get("bounds")) for r in results if np.isfinite(r.values).any()]
    return bool(stated) and all(bounds == [0.0, 1.0] for bounds in stated)


def complete(*tables: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which prompts have a value in every seed of every table."""
    return np.asarray(np.logical_and.reduce([np.isfinite(table).all(0) for table in tables]))


def estimate(measured: Measured) -> tuple[Estimate | None, TwoWay | None]:
    """Estimate a strategy's own value; none when no prompt has a value in every seed."""
    keep = complete(measured.values)
    labels = [label for label, kept in zip(measured.clusters, keep, strict=True) if kept]
    return estimate_table(measured.values[:, keep], labels, int((~keep).sum()), rate=measured.rate)


def no_value(measured: Measured) -> tuple[Estimate, str]:
    """Return the estimate of what has none, and why it has none."""
    gap, (k, n) = math.nan, measured.values.shape
    made = Estimate(gap, gap, gap, gap, gap, k, 0, n, gap, "no value")
    seeds = "its one seed" if k == 1 else f"any of its {k} seeds"
    if n == 0:
        return made, f"no prompt is common to its {k} seeds"
    if np.isfinite(measured.values).any():
        return made, f"none of the {n} prompts has a value in every one of its {k} seeds"
    return made, f"none of the {n} prompts has a value in {seeds}"


def estimate_table(
    table: NDArray[np.float64], labels: list[str], excluded: int, *, rate: bool, size: float | None = None
) -> tuple[Estimate | None, TwoWay | None]:
    """Estimate the mean of a (k, n) table without gaps; none without a prompt, no variance of one.

    Args:
        table: of values.
        labels: (n,) cluster of each prompt.
        excluded: prompts left out.
        rate: the values are rates.
        size: see :func:`~dfilter.leaderboard.statistics.two_way`.
    """
    k, n = table.shape
    if n == 0:
        return None, None
    gap = math.nan
    if len(set(labels)) < 2:
        mean = float(table.mean())
        _, low, high = single(table) if rate else (gap, gap, gap)
        return Estimate(mean, low, high, gap, gap, k, n, excluded, gap, "one prompt"), None
    way = two_way(table, labels, size)
    low, high = (float(end) for end in interval(way))
    method = "two-way" if k > 1 else ONE_SEED
    if rate and (way.n < FEW_PROMPTS or extreme(way) or still(way)):
        (low, high), method = rate_interval(way), "Wilson" if k > 1 else f"Wilson; {ONE_SEED}"
    elif still(way):
        low, high, method = gap, gap, f"{method}; nothing varies"
    variance, df = float(way.variance), float(way.df)
    made = Estimate(float(way.mean), low, high, math.sqrt(variance), df, k, n, excluded, gap, method)
    return made, way


def extreme(way: TwoWay) -> bool:
    """Return whether a rate has too few successes or failures for Student's t."""
    rate = float(way.mean)
    return min(rate, 1 - rate) * way.n < FEW_OUTCOMES


def still(way: TwoWay) -> bool:
    """Return whether nothing varies, but for what rounding adds."""
    return bool(way.variance <= (1e-12 * (1 + abs(float(way.mean)))) ** 2)


def single(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the rate and the interval of a single prompt."""
    rate = float(table.mean())
    low, high = wilson(rate, 1)
    return rate, float(low), float(high)
