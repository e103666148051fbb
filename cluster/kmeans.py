"""K-Means, spherical and Euclidean (Lloyd 1982), the same bytes for the same seed.

Why not scikit-learn's ``KMeans(init="random")``: on 2 cores with bfloat16 it takes five times as long at
the same inertia from 20,000 rows on, and as long at 2,000 (``benchmarks/kmeans.py``). It has no spherical
metric and no CUDA, copies the rows, and its float32 sums depend on the number of threads. Here labels come
from the exact values of k-center (``pairs.pair``) behind the same low-precision filter, and sums are float64
in row order, so neither threads, precision nor device change a bit. Not faiss, which was about as fast as
scikit-learn where it was measured, and would be one more dependency.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dfilter.cluster.products import Metric, Precision, Space

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Init: TypeAlias = Literal["random", "k-means++"] | NDArray[Any]

STREAM_ROWS = 1 << 18  # rows of a memory map labelled at once when batches are used


@dataclass(frozen=True, eq=False)
class KMeans:
    """Clusters of rows.

    Attributes:
        centroids: (k, d) float32: means of the rows (Euclidean), or their directions, of length 1 (cosine).
        labels: (n,) int64: the nearest centroid, the first among equals.
        distance: (n,) float64 to it: Euclidean, or 1 - cosine.
        inertia: sum of squared Euclidean distances of the rows (cosine: of the rows as unit vectors) to
            the centroids.
        iterations: passes over the rows, or batches.
    """

    centroids: Float32
    labels: Int64
    distance: Float64
    inertia: float
    iterations: int


def kmeans(
    X: NDArray[Any],
    k: int,
    *,
    init: Init = "random",
    metric: Metric = "cosine",
    seed: int = 0,
    max_iter: int = 100,
    tol: float = 1e-4,
    batch: int | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> KMeans:
    """Partition rows into ``k`` clusters around centroids.

    A cluster that becomes empty takes over the row farthest from its centroid. Only if there are fewer
    than ``k`` distinct rows do empty clusters remain. Under cosine, a row of zeros is at distance 1 from
    every centroid: it goes to the first and moves none.

    Args:
        X: (n, d) rows, float32 or converted to it; may be a memory map.
        k: clusters, 1 to n.
        init: "random" (``k`` rows drawn by the seed; k-means++ gains half a percent of inertia for many
            times the work), "k-means++" (Arthur and Vassilvitskii 2007), or (k, d) centroids.
        metric: "cosine" (spherical K-Means, Dhillon and Modha 2001) or "euclidean".
        seed: of the starting rows and the batches.
        max_iter: at most so many iterations.
        tol: stop when the centroids' squared movement is at most this share of the rows' mean variance per
            column.
        batch: rows of a mini-batch (Sculley 2010), drawn anew for every batch, for pools whose
            half-precision copy does not fit; ``max_iter`` then counts batches. None uses all rows.
        precision: of the filter; see :func:`dfilter.cluster.kcenter.kcenter`. Never changes the result.
        device: "cpu", "cuda" or "auto".
        threads: at most so many threads.
        progress: called after every iteration with its number and the share of rows that changed cluster.

    Raises:
        ValueError: ``k``, a setting or a row cannot be used, with the reason.
    """
    from dfilter.cluster.precision import exact_products
    from dfilter.cluster.products import checked

    rows = checked(X)
    _check(len(rows), k, metric, max_iter, batch)
    rng = np.random.default_rng(seed)
    with exact_products(threads) as count:
        options: dict[str, Any] = {"precision": precision, "device": device, "threads": count}
        start = _start(rows, k, init, metric, rng, options)
        report = progress or (lambda _iteration, _share: None)
        if batch is not None and batch < len(rows):
            return _batches(rows, start, metric, rng, max_iter, batch, options, report)
        return _lloyd(rows, start, metric, max_iter, tol, options, report)


def nearest_rows(found: KMeans, count: int = 1) -> Int64:
    """Return the ``count`` members of every cluster nearest its centroid, nearest first.

    Clusters come in order; one of fewer members gives them all. Among equals the lowest row comes first.
    """
    order = np.lexsort((found.distance, found.labels))
    labels = found.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(labels, labels)
    return order[rank < count]


def _check(n: int, k: int, metric: str, max_iter: int, batch: int | None) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, but there are {n} rows; ask for 1 to {n} clusters.")
    if metric not in {"cosine", "euclidean"}:
        raise ValueError(f"metric is '{metric}'; known are 'cosine' and 'euclidean'.")
    for name, value in (("max_iter", max_iter), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it has to be at least 1.")


def _start(
    rows: Float32, k: int, init: Init, metric: Metric, rng: np.random.Generator, options: dict[str, Any]
) -> Float32:
    """Return the first centroids."""
    from dfilter.cluster.products import checked

    if not isinstance(init, str):
        centroids = checked(init, "init")
        if centroids.shape != (k, rows.shape[1]):
            raise ValueError(f"init has shape {centroids.shape}, expected {(k, rows.shape[1])}.")
        return centroids
    if init == "random":
        return checked(rows[np.sort(rng.choice(len(rows), k, replace=False))])
    if init == "k-means++":
        return checked(rows[_spread(rows, k, metric, rng, options)])
    raise ValueError(f"init is '{init}'; known are 'random', 'k-means++' and an array of centroids.")


def _spread(
    rows: Float32, k: int, metric: Metric, rng: np.random.Generator, options: dict[str, Any]
) -> Int64:
    """Draw rows with probability proportional to the squared distance to those drawn before."""
    from dfilter.cluster.products import Centres, Space

    space = Space(rows, metric, **options)
    centres = Centres(space, k)
    chosen = rng.choice(len(rows), k, replace=False)  # where nothing is left at a distance, any other row
    value = np.full(len(rows), np.inf)
    for j in range(k):
        total = np.cumsum(value) if j else np.zeros(1)
        if total[-1] > 0:
            chosen[j] = np.searchsorted(total, rng.random() * total[-1], side="right")
        centres.add(chosen[j : j + 1])
        value = space.nearest(np.arange(len(rows)), centres, first=j, value=value)[0]
    return chosen


def _lloyd(
    rows: Float32,
    start: Float32,
    metric: Metric,
    max_iter: int,
    tol: float,
    options: dict[str, Any],
    report: Callable[[int, float], None],
) -> KMeans:
    """Alternate between labels and means until few rows change."""
    from dfilter.cluster.products import Space

    space = Space(rows, metric, vectors=start, **options)
    sums, counts = np.zeros(start.shape), np.zeros(len(start), np.int64)
    labels, every = np.full(len(rows), -1), np.ones(len(start), np.bool_)
    limit, iteration, centroids = 0.0, 0, start
    for iteration in range(1, max_iter + 1):
        new, _ = space.assign()
        new = _without_gaps(new, partial(space.to_assigned, new), every)
        changed = np.flatnonzero(new != labels)
        space.add_up(changed, labels[changed], new[changed], sums)
        counts = np.bincount(new, minlength=len(start))
        sums[counts == 0] = 0.0
        labels = new
        if iteration == 1:
            spread = space.square[: len(rows)].mean() - np.square(sums.sum(axis=0) / len(rows)).sum()
            limit = tol * float(spread) / rows.shape[1]
        moved = _means(sums, counts, centroids, space)
        step = float(np.square((moved.astype(np.float64) - centroids) * space.unit).sum())
        centroids = moved
        space.move(centroids)
        report(iteration, len(changed) / len(rows))
        if not len(changed) or step <= limit:
            break
    labels, _ = space.assign()
    value = space.to_assigned(labels)
    inertia = math.fsum(value) / space.unit**2
    return KMeans(centroids, labels, space.distance(value), inertia, iteration)


def _without_gaps(labels: Int64, value: Callable[[], Float64], wanted: NDArray[np.bool_]) -> Int64:
    """Give every empty cluster that is ``wanted`` the farthest row of a cluster that can spare one."""
    counts = np.bincount(labels, minlength=len(wanted))
    empty = np.flatnonzero((counts == 0) & wanted)
    if not len(empty):
        return labels
    labels, distance, filled = labels.copy(), value(), 0
    for row in np.argsort(-distance, kind="stable"):
        if filled == len(empty) or distance[row] == 0.0:
            break
        if counts[labels[row]] > 1:
            counts[labels[row]] -= 1
            labels[row] = empty[filled]
            filled += 1
    return labels


def _means(sums: Float64, counts: Int64, before: Float32, space: Space) -> Float32:
    """Return the centroids of these sums of scaled rows; what has no mean, or no direction, stays put."""
    from dfilter.cluster.products import checked

    divisor = np.linalg.norm(sums, axis=1) if space.cosine else counts * space.unit
    known = (counts > 0) & (divisor > 0)
    means = np.where(known[:, None], sums / np.where(known, divisor, 1.0)[:, None], before)
    return checked(means)


def _batches(
    rows: Float32,
    start: Float32,
    metric: Metric,
    rng: np.random.Generator,
    max_iter: int,
    batch: int,
    options: dict[str, Any],
    report: Callable[[int, float], None],
) -> KMeans:
    """Move every centroid to the running mean of the rows that batches gave it; then label all rows."""
    from dfilter.cluster.products import Space, checked

    totals, counts, centroids = np.zeros(start.shape), np.zeros(len(start), np.int64), start
    for iteration in range(1, max_iter + 1):
        drawn = checked(rows[np.sort(rng.choice(len(rows), batch, replace=False))])
        space = Space(drawn, metric, vectors=centroids, **options)
        labels, _ = space.assign()
        labels = _without_gaps(labels, partial(space.to_assigned, labels), counts == 0)
        sums = np.zeros(start.shape)
        space.add_up(np.arange(batch), np.full(batch, -1), labels, sums)
        totals += sums / space.unit
        counts += np.bincount(labels, minlength=len(start))
        centroids = _means(totals * space.unit, counts, centroids, space)
        report(iteration, 1.0)
    labels, distance, squares = np.empty(len(rows), np.int64), np.empty(len(rows)), []
    for begin in range(0, len(rows), STREAM_ROWS):
        part = slice(begin, min(begin + STREAM_ROWS, len(rows)))
        space = Space(rows[part], metric, vectors=centroids, **options)
        labels[part], _ = space.assign()
        value = space.to_assigned(labels[part])
        distance[part] = space.distance(value)
        squares.append(math.fsum(value) / space.unit**2)
    return KMeans(centroids, labels, distance, math.fsum(squares), max_iter)
