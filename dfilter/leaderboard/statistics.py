"""Estimators for comparisons: intervals that know about prompts *and* training seeds, and what follows.

A metric measured for k training seeds on n prompts is a (k, n) table. Its mean varies because other
prompts could have been asked and because another training run would have given another model; an
interval over prompts alone leaves the second part out. All functions accept any number of leading
axes, so that thousands of tables are estimated in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.80
ROUNDING = 1e-12  # differences of so small a part of the numbers are rounding
ONE_SEED = "one training seed: training noise not included"


@dataclass(frozen=True, eq=False)
class TwoWay:
    """The mean of a seed-by-prompt table and the variance of that mean, by its sources.

    Attributes:
        mean: (...) mean over seeds and prompts.
        seeds: (...) variance of the seed means, over k; zero for one seed.
        prompts: (...) variance of the prompt means, over n (clustered where clusters are given).
        residual: (...) residual mean square, over k·n; zero for one seed.
        k: training seeds.
        n: prompts, or clusters of prompts.
    """

    mean: NDArray[np.float64]
    seeds: NDArray[np.float64]
    prompts: NDArray[np.float64]
    residual: NDArray[np.float64]
    k: int
    n: int

    @property
    def training(self) -> NDArray[np.float64]:
        """The part of the variance that is training noise; never negative."""
        return np.asarray(np.maximum(self.seeds - self.residual, 0.0))

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance of the mean: training noise plus prompts."""
        return np.asarray(self.training + self.prompts)

    @property
    def df(self) -> NDArray[np.float64]:
        """Satterthwaite's degrees of freedom of :attr:`variance`."""
        return satterthwaite((self.training, self.k - 1), (self.prompts, self.n - 1))


def satterthwaite(*terms: tuple[ArrayLike, ArrayLike]) -> NDArray[np.float64]:
    """Return the degrees of freedom of a sum of variances, each given with its own.

    A term that is zero counts for nothing, whatever its degrees of freedom; if all are zero, the
    largest degrees of freedom given are returned.
    """
    total = np.asarray(sum(np.asarray(value, dtype=np.float64) for value, _ in terms), dtype=np.float64)
    weight = np.zeros_like(total)
    for value, df in terms:
        part = np.asarray(value, dtype=np.float64)
        weight = weight + np.where(part > 0, part**2 / np.maximum(np.asarray(df, np.float64), 1e-300), 0.0)
    most = np.max([np.max(np.asarray(df, dtype=np.float64)) for _, df in terms])
    safe = np.where(weight > 0, weight, 1.0)
    return np.asarray(np.where(weight > 0, total**2 / safe, most))


def two_way(table: ArrayLike, clusters: ArrayLike | None = None, size: ArrayLike | None = None) -> TwoWay:
    """Estimate the mean of a seed-by-prompt table and the variance of that mean.

    With vS the variance of the seed means over k, vP that of the prompt means over n and vE the
    residual mean square over k·n, the variance is max(vS - vE, 0) + vP. Prompts of one cluster
    (duplicates, near-duplicates, questions on one text) are drawn together, so their deviations are
    summed before they are squared.

    Args:
        table: (..., k, n) values, finite; k ≥ 1, n ≥ 2.
        clusters: (n,) label of each prompt's cluster; each prompt is its own cluster unless given.
        size: (...) how large the numbers are that the values were made of, the largest value unless given.
            Deviations within rounding of it are none: equal values vary by nothing.

    Raises:
        ValueError: fewer than two prompts or clusters, or a value that is not finite.
    """
    data = np.asarray(table, dtype=np.float64)
    k, n = data.shape[-2:]
    if not np.isfinite(data).all():
        raise ValueError("The table holds values that are not finite; leave out such prompts first.")
    label = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(label.max()) + 1 if n else 0
    if groups < 2:
        raise ValueError(f"An interval needs two independent prompts or more; there is {groups}.")
    seed_mean, prompt_mean = data.mean(-1), data.mean(-2)
    mean = prompt_mean.mean(-1)
    largest = np.abs(data).max((-1, -2)) if size is None else size
    least = np.asarray(ROUNDING * np.asarray(largest, np.float64))[..., None]
    spread = _settled(_cluster_sums(prompt_mean - mean[..., None], label, groups), least)
    prompts = (spread**2).sum(-1) * groups / (groups - 1) / n**2
    if k == 1:
        none = np.zeros_like(mean)
        return TwoWay(mean, none, prompts, none, k, groups)
    rest = data - seed_mean[..., None] - prompt_mean[..., None, :] + mean[..., None, None]
    rest = _settled(_cluster_sums(rest, label, groups), least[..., None])
    residual = (rest**2).sum((-1, -2)) / ((k - 1) * (groups - 1)) * groups / (k * n**2)
    seeds = (_settled(seed_mean - mean[..., None], least) ** 2).sum(-1) / (k - 1) / k
    return TwoWay(mean, seeds, prompts, residual, k, groups)


def _settled(deviations: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(deviations) <= least, 0.0, deviations)


def minus(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return first - second, and 0 where they differ by rounding alone."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return _settled(one - two, ROUNDING * np.maximum(np.abs(one), np.abs(two)))


def _cluster_sums(values: NDArray[np.float64], label: NDArray[Any], groups: int) -> NDArray[np.float64]:
    if groups == values.shape[-1]:
        return values
    order = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[order], np.arange(groups))
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))


def quantile(df: ArrayLike, level: float = LEVEL) -> NDArray[np.float64]:
    """Return Student's two-sided quantile: 1.96 for many degrees of freedom at 0.95."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.minimum(np.asarray(df, np.float64), 1e9), 0.5 + level / 2))


def interval(estimate: TwoWay, level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the low and the high end of the two-way interval of a mean."""
    half = quantile(estimate.df, level) * np.sqrt(estimate.variance)
    return np.asarray(estimate.mean - half), np.asarray(estimate.mean + half)


def tail(distance: ArrayLike, variance: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """Return the probability that noise alone exceeds ``distance``: Student's upper tail.

    Without any variance it is 0, 0.5 or 1 by the sign of the distance.
    """
    from scipy.special import stdtr

    far = np.asarray(distance, np.float64)
    spread = np.sqrt(np.asarray(variance, np.float64))
    t = np.where(
        spread > 0, far / np.where(spread > 0, spread, 1.0), np.where(far == 0, 0.0, np.copysign(np.inf, far))
    )
    return np.asarray(stdtr(np.minimum(np.asarray(df, np.float64), 1e9), -t))


def two_sided(distance: ArrayLike, variance: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """Return the two-sided p of "the true difference is zero"."""
    return np.asarray(np.minimum(2 * tail(np.abs(np.asarray(distance)), variance, df), 1.0))


def equivalence(
    distance: ArrayLike, margin: float, variance: ArrayLike, df: ArrayLike
) -> NDArray[np.float64]:
    """Return the p of two one-sided tests: "the true difference is ``margin`` or more, either way"."""
    return tail(margin - np.abs(np.asarray(distance, np.float64)), variance, df)


def pooled(
    own: TwoWay, family: Sequence[TwoWay], reference: TwoWay | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variance and degrees of freedom of a difference, its training noise taken from its table.

    Three seeds say little about training noise: where they happen to lie close together, a two-way
    interval is too short, and a table of many strategies finds such a case almost surely (in
    simulation 8 to 20% of tables without any difference then hold a verdict, instead of 5%). The
    other strategies were trained in the same way, so their seeds say something about it too. The
    reference keeps its own noise, because random draws other rows for every seed.

    Args:
        own: the difference itself.
        family: the strategies of the table at this budget, each alone; or, when there is no
            ``reference``, their differences. All with two seeds or more.
        reference: the reference alone, on the same seeds.
    """
    free = sum(member.k - 1 for member in family)
    noise = sum(member.seeds * member.k * (member.k - 1) for member in family) / free / own.k
    rest = sum(member.residual * member.k * (member.k - 1) for member in family) / free / own.k
    if reference is None:
        # Differences from one reference correlate 1/2, hence their variances 1/4.
        terms = [(noise, free / (1 + (len(family) - 1) / 4))]
    else:
        terms = [(noise, float(free)), (reference.seeds, float(reference.k - 1))]
        rest = rest + reference.residual
    return pooled_variance(terms, rest, own.prompts, own.n - 1)


def pooled_variance(
    terms: Sequence[tuple[ArrayLike, float]], rest: ArrayLike, prompts: ArrayLike, free: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variance and degrees of freedom of a difference whose seeds vary by ``terms``.

    Args:
        terms: variances of seed means, each with its degrees of freedom.
        rest: the part of them that is the residual's.
        prompts: variance by prompts.
        free: its degrees of freedom.
    """
    asked = np.asarray(prompts, np.float64)
    seeds = np.asarray(sum(np.asarray(value, np.float64) for value, _ in terms))
    variance = np.maximum(seeds - rest, 0.0) + asked
    weight = np.asarray(sum(np.asarray(value, np.float64) ** 2 / df for value, df in terms) + asked**2 / free)
    df = np.where(weight > 0, variance**2 / np.where(weight > 0, weight, 1.0), free)
    return np.asarray(variance), np.asarray(np.maximum(df, 1.0))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's adjusted p along the last axis: below 0.05 for any true null in at most 5% of tables.

    NaN stays NaN and does not count as a test.
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, axis=-1)  # NaN last
    sorted_p = np.take_along_axis(raw, order, -1)
    tests = np.isfinite(raw).sum(-1, keepdims=True)
    steps = np.maximum(tests - np.arange(raw.shape[-1]), 1)
    adjusted = np.minimum(np.maximum.accumulate(sorted_p * steps, axis=-1), 1.0)
    result = np.empty_like(raw)
    np.put_along_axis(result, order, adjusted, -1)
    return result


def detectable(
    variance: ArrayLike, df: ArrayLike, *, alpha: float = ALPHA, power: float = POWER
) -> NDArray[np.float64]:
    """Return the smallest true difference that is found with probability ``power`` (two-sided ``alpha``)."""
    reach = quantile(df, 1 - alpha) + quantile(df, 2 * power - 1)
    return np.asarray(reach * np.sqrt(np.asarray(variance, np.float64)))


def wilson(
    rate: ArrayLike, size: ArrayLike, critical: ArrayLike = 1.959964
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's score interval of a rate; never outside [0, 1], never empty at 0 or 1.

    Args:
        rate: observed rate, 0 to 1.
        size: trials, or the effective number of them when they are not independent.
        critical: quantile of the interval, 1.96 for 95% of a normal.
    """
    p, n, z = (np.asarray(x, np.float64) for x in (rate, size, critical))
    scale = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / scale
    half = z / scale * np.sqrt(np.maximum(p * (1 - p) / n + z**2 / (4 * n**2), 0.0))
    low = np.where(p <= 0, 0.0, np.maximum(centre - half, 0.0))
    return low, np.where(p >= 1, 1.0, np.minimum(centre + half, 1.0))


def rate_interval(estimate: TwoWay, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's interval of a rate measured on a seed-by-prompt table.

    The number of trials is the one at which independent trials would have the table's variance. At
    a rate of 0 or 1 the table shows no variance; then the prompts count once, not once per seed.
    """
    rate, variance = float(estimate.mean), float(estimate.variance)
    size = rate * (1 - rate) / variance if variance > 0 else float(estimate.n)
    size = min(max(size, 1.0), float(estimate.k * estimate.n))
    low, high = wilson(rate, size, quantile(estimate.df, level))
    return float(low), float(high)


def square_and_add(
    first: tuple[float, float, float], second: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """Return the interval of first - second from the interval of each (Newcombe 1998, method 10).

    It is used for paired rates near 0 or 1 and for few prompts, where the difference itself may show no
    variance at all.

    Args:
        first: estimate, low, high.
        second: estimate, low, high.
        correlation: of the two estimates; pairing makes it positive as a rule.
    """
    (p1, l1, u1), (p2, l2, u2) = first, second
    down = (p1 - l1) ** 2 + (u2 - p2) ** 2 - 2 * correlation * (p1 - l1) * (u2 - p2)
    up = (u1 - p1) ** 2 + (p2 - l2) ** 2 - 2 * correlation * (u1 - p1) * (p2 - l2)
    return p1 - p2 - max(down, 0.0) ** 0.5, p1 - p2 + max(up, 0.0) ** 0.5


def resample(
    k: int, clusters: ArrayLike, replicates: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bootstrap weights over seeds and over prompts, the same for the same ``seed``.

    Seeds are few, and a bootstrap of k of them shows only (k - 1)/k of their variance; the weights
    are stretched by √(k/(k - 1)) to make up for it, so a weight may be negative.

    Returns:
        (replicates, k) seed weights and (replicates, n) prompt weights; both sum to 1 in each row.
    """
    rng = np.random.default_rng(seed)
    label = np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(label.max()) + 1
    drawn = _counts(rng, k, replicates) / k
    over_seeds = 1 / k + (drawn - 1 / k) * (np.sqrt(k / (k - 1)) if k > 1 else 1.0)
    over_prompts = _counts(rng, groups, replicates)[:, label]
    return over_seeds, over_prompts / over_prompts.sum(-1, keepdims=True)


def _counts(rng: np.random.Generator, items: int, replicates: int) -> NDArray[np.int64]:
    """Return how often each item is drawn in ``items`` draws with replacement."""
    draws = (rng.integers(items, size=items) for _ in range(replicates))
    return np.stack([np.bincount(drawn, minlength=items) for drawn in draws])


def rank_intervals(
    tables: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    higher_is_better: bool,
    replicates: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> NDArray[np.int64]:
    """Return the interval of each model's rank, 1 the best, by a bootstrap over prompts and seeds.

    Args:
        tables: (m, k, n) the models on the same seeds and prompts; a seed that a model lacks is NaN
            throughout, and its other seeds stand in for it.
        clusters: (n,) cluster of each prompt.
        higher_is_better: direction of the values.
        replicates: bootstrap samples.
        seed: of the bootstrap.
        level: share of the bootstrap's ranks inside the interval.

    Returns:
        (m, 2) lowest and highest rank.
    """
    data = np.asarray(tables, dtype=np.float64)
    models, k, n = data.shape
    held = np.asarray(np.isfinite(data).all(-1))
    over_seeds, over_prompts = resample(k, np.arange(n) if clusters is None else clusters, replicates, seed)
    by_seed = over_prompts @ np.where(held[..., None], data, 0.0).reshape(-1, n).T
    means = np.empty((models, replicates))
    for index, part in enumerate(by_seed.reshape(replicates, models, k).swapaxes(0, 1)):
        weights = over_seeds[:, held[index]]
        weights = weights + (1 - weights.sum(-1, keepdims=True)) / weights.shape[-1]
        means[index] = (weights * part[:, held[index]]).sum(-1)
    better = means if higher_is_better else -means
    apart = ROUNDING * np.abs(data[np.isfinite(data)]).max(initial=0.0)
    ranks = 1 + (better[None] > better[:, None] + apart).sum(1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(ranks, tails, axis=-1, method="inverted_cdf")
    return np.stack([low, high], axis=-1).astype(np.int64)
