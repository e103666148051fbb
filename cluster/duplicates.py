"""Near-duplicates by cosine: which rows repeat a row that comes before them in a given order.

Rows are walked in ``order``, best first. A row is dropped if a row that was kept before it has a cosine of
at least ``threshold`` with it (what DEITA's Repr-Filter does, arXiv 2312.15685, and SemDeDup within
clusters, arXiv 2303.09540). Dropped rows drop nobody, so a chain of similar rows is thinned out, not
removed whole. Blocks of rows meet the kept ones, and each other, in matrix products; only the walk within a
block is row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dfilter.cluster.products import Centres, Precision, Space

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

PAIR_COLUMNS = 1024  # rows that are compared pair by pair at once, where every pair may be near
FIRST_ROWS = 256  # blocks grow from this, so that many equal rows meet the one that is kept, not each other
BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which rows repeat others.

    Attributes:
        keep: (n,) bool.
        of: (n,) int64: the kept row that a dropped row repeats, the first in order; -1 for kept rows.
        apart: (n,) bool: rows that were kept although their vector repeats a kept one, see :class:`Doubt`.
    """

    keep: NDArray[np.bool_]
    of: Int64
    apart: NDArray[np.bool_]

    def groups(self) -> list[Int64]:
        """Return every kept row that has duplicates, followed by these, by ascending kept row."""
        dropped = np.flatnonzero(~self.keep)
        dropped = dropped[np.argsort(self.of[dropped], kind="stable")]
        cuts = np.flatnonzero(np.diff(self.of[dropped])) + 1
        return [np.concatenate([self.of[part[:1]], part]) for part in np.split(dropped, cuts) if len(part)]


@dataclass(frozen=True, eq=False)
class Doubt:
    """Rows whose vector does not tell all of them.

    Attributes:
        rows: (n,) bool: which these are. A pair with one of them is near only if ``agree`` says so, too.
        agree: takes two arrays of m row numbers, returns (m,) bool.
    """

    rows: NDArray[np.bool_]
    agree: Callable[[Int64, Int64], NDArray[np.bool_]]

    def admits(self, a: Int64, b: Int64) -> NDArray[np.bool_]:
        """Return which pairs are near, of those whose vectors are."""
        asked = self.rows[a] | self.rows[b]
        found = ~asked
        found[asked] = self.agree(a[asked], b[asked])
        return found


def near_duplicates(
    X: NDArray[Any],
    order: NDArray[Any] | None = None,
    threshold: float = 0.9,
    *,
    clusters: NDArray[Any] | None = None,
    neighbours: int | Literal["all"] = 0,
    doubt: Doubt | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Duplicates:
    """Find the rows that repeat a row kept before them.

    Cosines are exact, 1 - the cosine distance of :func:`dfilter.cluster.kcenter.kcenter`; a row of zeros
    repeats only rows of zeros. The result depends on no setting below ``doubt``.

    Args:
        X: (n, d) rows, float32 or converted to it; may be a memory map.
        order: (n,) every row once, best first; none is the order of the rows.
        threshold: rows of at least this cosine are near duplicates; above -1 and at most 1.
        clusters: (n,) label of each row. Only rows of one cluster are compared; none compares all.
        neighbours: compare with the rows of so many nearest clusters too (nearest by the directions of
            their means, the lower label among equals, either being the other's neighbour); "all" ignores
            the clusters.
        doubt: rows that are near others only if more than their vectors agrees.
        precision: of the filter, as for k-center.
        device: "cpu", "cuda" or "auto".
        threads: at most so many threads.
        progress: called with the number of rows done so far.

    Raises:
        ValueError: a row or a setting cannot be used, with the reason.
    """
    from dfilter.cluster.precision import exact_products
    from dfilter.cluster.products import Space, checked

    rows = checked(X)
    n = len(rows)
    order = np.arange(n) if order is None else np.asarray(order).astype(np.int64)
    labels = np.zeros(n, np.int64) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    _check(n, order, labels, threshold, neighbours)
    if neighbours == "all":
        labels, neighbours = np.zeros(n, np.int64), 0
    of, rank, done = np.full(n, -1), np.argsort(order), 0
    doubt = doubt or Doubt(np.zeros(n, np.bool_), lambda a, _: np.ones(len(a), np.bool_))
    apart = np.zeros(n, np.bool_)
    largest = PAIR_COLUMNS if doubt.rows.any() else BLOCK_ROWS
    with exact_products(threads) as count:
        space = Space(rows, "cosine", precision=precision, device=device, threads=count)
        scopes = _scopes(space, labels, neighbours)
        for part in [order] if neighbours else _by_label(order, labels):
            kept = _Kept({}, {})
            for block in _blocks(part, largest):
                _compare(space, block, rank, labels, scopes, kept, doubt, 2.0 * (1.0 - threshold), of, apart)
                done += len(block)
                if progress is not None:
                    progress(done)
    return Duplicates(of < 0, of, apart & (of < 0))


def _check(n: int, order: Int64, labels: Int64, threshold: float, neighbours: int | str) -> None:
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(
            f"order has to name each of the {n} rows once, found an array of shape {order.shape}."
        )
    if labels.shape != (n,):
        raise ValueError(f"clusters has shape {labels.shape}, expected one label for each of the {n} rows.")
    if not -1.0 < threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}; a cosine above -1 and at most 1 is needed.")
    if neighbours != "all" and (isinstance(neighbours, str) or neighbours < 0):
        raise ValueError(
            f"neighbours is {neighbours!r}; a number of clusters, 0 or more, or 'all' is needed."
        )


def _by_label(order: Int64, labels: Int64) -> Iterator[Int64]:
    """Yield the rows of each label, in order."""
    grouped = order[np.argsort(labels[order], kind="stable")]
    yield from np.split(grouped, np.flatnonzero(np.diff(labels[grouped])) + 1)


def _blocks(rows: Int64, largest: int) -> Iterator[Int64]:
    begin, size = 0, FIRST_ROWS
    while begin < len(rows):
        yield rows[begin : begin + size]
        begin, size = begin + size, min(2 * size, largest)


def _scopes(space: Space, labels: Int64, neighbours: int) -> list[Int64]:
    """Return, for every label, the labels that its rows are compared with: itself and its neighbours."""
    count = int(labels.max()) + 1
    if not neighbours:
        return [np.array([label]) for label in range(count)]
    sums = np.zeros((count, space.X.shape[1]))
    space.add_up(np.arange(len(labels)), np.full(len(labels), -1), labels, sums)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    # Rows that cancel out leave rounding errors, not a direction: such a mean is at right angles to all.
    directed = length > 1e-9 * np.bincount(labels)[:, None]
    means = np.divide(sums, length, out=np.zeros_like(sums), where=directed)
    linked: list[set[int]] = [{label} for label in range(count)]
    for label in range(count):
        # Rounded, so that the last bit, which depends on the threads, does not choose between equals.
        near = np.argsort(-np.round(means @ means[label], 9), kind="stable")
        for other in near[near != label][:neighbours].tolist():
            linked[label].add(other)
            linked[other].add(label)
    return [np.array(sorted(scope)) for scope in linked]


@dataclass(frozen=True, eq=False)
class _Kept:
    """What was kept of each label: the rows whose vectors tell all, and those of which they do not."""

    sure: dict[int, Centres]
    doubtful: dict[int, Int64]

    def all_of(self, label: int) -> Int64:
        sure = self.sure[label].ids[: self.sure[label].count]
        return np.concatenate([sure, self.doubtful[label]])


def _compare(
    space: Space,
    block: Int64,
    rank: Int64,
    labels: Int64,
    scopes: list[Int64],
    kept: _Kept,
    doubt: Doubt,
    limit: float,
    of: Int64,
    apart: NDArray[np.bool_],
) -> None:
    """Decide on a block of rows, in order, knowing all that was kept before; add what it keeps."""
    from dfilter.cluster import pairs
    from dfilter.cluster.products import Centres

    groups = {int(label): block[labels[block] == label] for label in np.unique(labels[block])}
    for label, rows in groups.items():
        for other in (known for known in scopes[label].tolist() if known in kept.sure):
            sure, unsure = rows[~doubt.rows[rows]], rows[doubt.rows[rows]]
            _enter(sure, _first_kept(space, sure, kept.sure[other], limit), rank, of)
            for some, ids in ((sure, kept.doubtful[other]), (unsure, kept.all_of(other))):
                _enter(some, _first_agreed(space, some, ids, rank, doubt, limit, apart), rank, of)
    groups = {label: rows[of[rows] < 0] for label, rows in groups.items()}
    edges = [np.empty((2, 0), np.int64)]
    for label, rows in groups.items():
        near = [groups[other] for other in scopes[label].tolist() if other >= label and other in groups]
        edges += [_near_pairs(space, rows, others, rank, limit) for others in near]
    earlier, later = _agreed(np.concatenate(edges, axis=1), doubt, apart)
    by_rank = np.lexsort((rank[earlier], rank[later]))
    pairs.walk(earlier[by_rank], later[by_rank], of)
    for label, rows in groups.items():
        stays = rows[of[rows] < 0]
        kept.sure.setdefault(label, Centres(space, len(rows))).add(stays[~doubt.rows[stays]])
        held = kept.doubtful.get(label, np.empty(0, np.int64))
        kept.doubtful[label] = np.concatenate([held, stays[doubt.rows[stays]]])


def _enter(rows: Int64, hit: Int64, rank: Int64, of: Int64) -> None:
    """Enter the kept rows that rows repeat, -1 where there is none, where they come before those known."""
    first = (hit >= 0) & ((of[rows] < 0) | (rank[hit] < rank[of[rows]]))
    of[rows[first]] = hit[first]


def _agreed(pairs: Int64, doubt: Doubt, apart: NDArray[np.bool_]) -> Int64:
    """Return the pairs (2, m), the earlier row first, that are no coincidence of vectors; note the others."""
    admitted = doubt.admits(pairs[0], pairs[1])
    apart[pairs[1][~admitted]] = True
    return pairs[:, admitted]


def _first_agreed(
    space: Space,
    rows: Int64,
    kept: Int64,
    rank: Int64,
    doubt: Doubt,
    limit: float,
    apart: NDArray[np.bool_],
) -> Int64:
    """Return, for each row, the first kept row within ``limit`` that it agrees with, or -1."""
    hit, found = np.full(len(rows), -1), [np.empty((2, 0), np.int64)]
    for start in range(0, len(kept) if len(rows) else 0, PAIR_COLUMNS):
        near = _near_pairs(space, rows, kept[start : start + PAIR_COLUMNS], rank, limit)
        found.append(_agreed(near, doubt, apart))
    earlier, later = np.concatenate(found, axis=1)
    by_rank = np.lexsort((rank[earlier], later))
    repeated, first = np.unique(later[by_rank], return_index=True)
    place = np.searchsorted(repeated, rows)
    known = np.flatnonzero(np.isin(rows, repeated))
    hit[known] = earlier[by_rank][first][place[known]]
    return hit


def _first_kept(space: Space, rows: Int64, kept: Centres, limit: float) -> Int64:
    """Return, for each row, the first kept row within ``limit``, or -1."""
    from dfilter.cluster import pairs, products

    hit = np.full(len(rows), -1)

    def batch(part: slice) -> None:
        ids = rows[part]
        packed = space.take(ids)
        for start in range(0, kept.count, products.COLUMNS):
            stop = min(start + products.COLUMNS, kept.count)
            centres, half = kept.part(start, stop)
            table = products.as_numpy(space.multiply(packed, centres))
            points = kept.ids[start:stop], space.X, space.scale, space.square, space.margin
            pairs.first_within(0, len(ids), table, half, ids, *points, limit, hit[part])

    space.all([(batch, part) for part in space.split(len(rows))])
    return hit


def _near_pairs(space: Space, rows: Int64, others: Int64, rank: Int64, limit: float) -> Int64:
    """Return the pairs (2, m) of rows and others within ``limit``, the earlier row of each pair first."""
    import torch

    from dfilter.cluster import pairs, products

    def batch(part: slice) -> Int64:
        ids = rows[part]
        packed, found = space.take(ids).clone(), [np.empty((2, 0), np.int64)]
        least = 0.5 * (1.0 - limit) - space.margin[ids] - 1e-6  # the rest covers float32's comparison
        for start in range(0, len(others), products.COLUMNS):
            ends = others[start : start + products.COLUMNS]
            scores = space.multiply(packed, space.take(ends)).float() - 0.5
            near = (scores >= torch.from_numpy(least).to(scores)[:, None]).nonzero().cpu().numpy()
            found.append(np.stack([ids[near[:, 0]], ends[near[:, 1]]]))
        return np.concatenate(found, axis=1)

    parts = space.all([(batch, part) for part in space.split(len(rows))])
    a, b = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
    if rows is others:
        a, b = a[rank[a] < rank[b]], b[rank[a] < rank[b]]
    value = np.empty(len(a))
    space.each(pairs.values, len(a), a, b, space.X, space.scale, value)
    a, b = a[value <= limit], b[value <= limit]
    return np.where(rank[a] < rank[b], np.stack([a, b]), np.stack([b, a]))
