"""One farthest-first traversal under way: bounds, rounds, state. The idea stands in ``kcenter``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.cluster import pairs
from dfilter.cluster.products import Centres, Float64, Int64, Space, as_numpy

SETTLINGS = 3  # rows whose bounds stay loose after so many tries end a block instead
FEW_ROWS = 512  # a product of fewer rows wastes more than evaluations that were not needed


@dataclass
class Counters:
    """What a traversal cost.

    Attributes:
        evaluations: distances in low precision; the plain algorithm needs n * k.
        rechecks: distances in float64.
        rounds: blocks of picks.
    """

    evaluations: int = 0
    rechecks: int = 0
    rounds: int = 0


class Traversal:
    """The traversal between two rounds.

    ``bound[i]`` is never below row i's squared scaled distance to its nearest centre, and equals it
    where ``exact[i]`` holds and no centre came since; ``seen[i]`` counts the centres that entered it.
    Picks have bound -1.
    """

    def __init__(self, space: Space, block: int, front: int, room: int) -> None:
        self.space, self.block, self.front = space, block, front
        self.centres = Centres(space, room)
        self.counters = Counters()
        self.radius: Float64 = np.empty(0)
        self.bound = np.full(len(space.X), np.inf)
        self.exact = np.zeros(len(space.X), np.bool_)
        self.seen = np.zeros(len(space.X), np.int32)

    @property
    def picks(self) -> Int64:
        """The picked rows so far."""
        return self.centres.ids[len(self.space.V) : self.centres.count]

    def begin(self, first: Int64, resume: Mapping[str, NDArray[Any]] | None) -> None:
        """Set the traversal behind its first picks, or behind those of a state that is known to fit.

        A state may end inside the first picks: those that it lacks follow, as they would have anyway.
        """
        space = self.space
        there = np.empty(0, np.int64) if resume is None else np.asarray(resume["indices"], np.int64)
        picks = np.concatenate([there, first[len(there) :]])
        self.centres.add(np.arange(len(space.V)) + len(space.X))
        self.centres.add(picks)
        if resume is not None and "bound" in resume:
            self.bound[:], self.seen[:] = resume["bound"], resume["seen"]
        self.bound[picks] = -1.0
        known = None if resume is None else resume.get("radius")
        whole = known is not None and len(known) == len(picks)
        self.radius = np.array(known, np.float64) if whole else self._radii()

    def cut(self, length: int) -> None:
        """Forget the picks behind the first ``length``, and the bounds, which know of them."""
        if length < len(self.radius):
            self.centres.count = len(self.space.V) + length
            self.radius = self.radius[:length]
            self.bound[:], self.seen[:], self.exact[:] = np.inf, 0, False
            self.bound[self.picks] = -1.0

    def rounds(self, wanted: int, stop: float | None) -> Iterator[None]:
        """Pick until there are ``wanted``, or the next is no farther than ``stop``; yield every round."""
        if len(self.radius) < wanted:
            self._refresh(np.flatnonzero(self.seen == 0))
        while len(self.radius) < wanted:
            candidates, value, picks, squares = self._block(wanted - len(self.radius))
            radius = self.space.distance(squares)
            near = np.flatnonzero(radius <= stop) if stop is not None else np.empty(0, np.int64)
            if near.size:
                picks, radius = picks[: near[0]], radius[: near[0]]
                self.bound[picks] = -1.0
            else:  # the candidates' values know all new picks
                self.bound[candidates], self.exact[candidates] = value, True
                self.seen[candidates] = self.centres.count + len(picks)
            self.centres.add(picks)
            self.radius = np.concatenate([self.radius, radius])
            self.counters.rounds += 1
            yield
            if near.size:
                break

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what continues the traversal: a copy, plain arrays."""
        return {
            "indices": self.picks.copy(),
            "radius": self.radius.copy(),
            "bound": self.bound.copy(),
            "seen": self.seen.copy(),
            "shape": np.array(self.space.X.shape),
            "given": np.array(len(self.space.V)),
            "metric": np.array("cosine" if self.space.cosine else "euclidean"),
        }

    def _block(self, wanted: int) -> tuple[Int64, Float64, Int64, Float64]:
        """Run greedy among the farthest rows; return these with their values, and picks with theirs."""
        space = self.space
        rows, outside, outside_row = self._candidates()
        value = self.bound[rows]
        packed = space.take(rows)
        products = as_numpy(space.multiply(packed, packed))
        half = (space.square[rows] / 2).astype(np.float32)
        picks = np.empty(min(wanted, len(rows)), np.int64)
        squares = np.empty(len(picks))
        points = space.X, space.scale, space.square, space.margin
        count, computed = pairs.greedy_block(
            products, half, rows, value, *points, outside, outside_row, picks, squares
        )
        self.counters.evaluations += len(rows) ** 2
        self.counters.rechecks += computed
        return rows, value, rows[picks[:count]], squares[:count]

    def _candidates(self) -> tuple[Int64, float, int]:
        """Return the farthest rows, exact, and what bounds every other row: a value and a row."""
        front, *beyond = _largest(self.bound, self.front)
        self._refresh(front)
        rows, others = front, [tuple(beyond)]
        for attempt in range(SETTLINGS + 1):
            where, limit, at = _largest(self.bound[front], self.block)
            rows = front[where]
            loose = rows[~self.exact[rows]]
            if not len(loose):
                break
            if attempt < SETTLINGS:
                self._settle(loose)
            else:
                farthest = int(self.bound[loose].argmax())
                others.append((self.bound[loose[farthest]], loose[farthest]))
        if at < len(front):
            others.append((limit, front[at]))
        value, row = min(others, key=lambda other: (-other[0], other[1]))
        return rows[self.exact[rows]], float(value), int(row)

    def _settle(self, rows: Int64) -> None:
        """Make the bounds of rows that have seen every centre exact."""
        self.bound[rows], _, computed = self.space.nearest(rows, self.centres)
        self.exact[rows] = True
        self.counters.evaluations += len(rows) * self.centres.count
        self.counters.rechecks += computed

    def _refresh(self, rows: Int64) -> None:
        """Show the rows every centre they missed."""
        count = self.centres.count
        rows = rows[(self.seen[rows] < count) & (self.bound[rows] > 0.0)]
        rows = rows[np.argsort(self.seen[rows], kind="stable")]
        seen = self.seen[rows]
        size = min(self.space.batch, max(FEW_ROWS, -(-len(rows) // self.space.threads)))
        begin, tasks = 0, []
        while begin < len(rows):
            first = int(seen[begin])
            half = int(np.searchsorted(seen, (first + count + 1) // 2))  # from here on half would be in vain
            end = min(max(half, begin + FEW_ROWS), begin + size, len(rows))
            tasks.append((self._show, rows[begin:end], first))
            begin = end
        self.space.all(tasks)
        self.seen[rows] = count
        self.counters.evaluations += sum(len(part) * (count - first) for _, part, first in tasks)

    def _show(self, rows: Int64, first: int) -> None:
        """Tighten the bounds of a batch of rows by the centres from ``first`` on."""
        best = self.space.best_scores(rows, self.centres, first)
        pairs.tighten(rows, best, self.space.square, self.space.margin, self.bound, self.exact)

    def _radii(self) -> Float64:
        """Return each pick's distance to the nearest centre before it; infinity where there is none."""
        before = np.arange(len(self.picks)) + len(self.space.V)
        value, _, computed = self.space.nearest(self.picks, self.centres, last=before)
        self.counters.evaluations += len(before) * self.centres.count
        self.counters.rechecks += computed
        return self.space.distance(value)


def _largest(values: Float64, count: int) -> tuple[Int64, float, int]:
    """Return the positions of the ``count`` largest values, ascending, and the next value and position.

    Among equals the lower position comes first. Negative values do not count; when nothing is left
    the next value is -1, at a position behind the last.
    """
    size = len(values)
    edge = -1.0 if count >= size else float(np.partition(values, size - count - 1)[size - count - 1])
    if edge < 0.0:
        return np.flatnonzero(values >= 0.0), -1.0, size
    chosen = values > edge
    ties = np.flatnonzero(values == edge)
    room = count - int(np.count_nonzero(chosen))
    chosen[ties[:room]] = True
    return np.flatnonzero(chosen), edge, int(ties[room])
