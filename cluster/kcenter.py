"""Greedy k-center (farthest-first traversal), exact, with few passes over the rows.

Each pick is the row farthest from all centres so far (Gonzalez 1985; k-center greedy in Sener and
Savarese, arXiv 1708.00489). The covering radius of the first k picks is at most twice the smallest
possible with k centres. What is done usually, one pass over all rows for every pick, is bound by
memory; here a pass serves hundreds of picks:

* **Bounds.** A row's distance to its nearest centre only shrinks, so any value it once had is a
  bound for good. Only the rows with the largest bounds (the front) are brought up to date, each
  against all centres it missed, in one low-precision matrix product with a proven margin.
* **Blocks.** The farthest of the front, made exact in float64, are candidates. Greedy runs among
  them alone as long as no row outside can be farther or, equally far, come first.

The order of picks is therefore that of the plain algorithm, bit for bit, whatever the block, the
precision of the filter, the threads and the device. It is defined by ``pairs.pair`` and the rule that
the lowest index wins among equals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dfilter.cluster.products import Centres, Metric, Precision, Space
    from dfilter.cluster.traversal import Counters

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
State: TypeAlias = dict[str, NDArray[Any]]
Start: TypeAlias = int | Literal["central", "random"]

BLOCK = 1024  # candidates of a round
CHUNK = 4096  # rows of a partial sum: part of the definition of start="central"
FRONT = 8192  # rows brought up to date in a round, at least; an eighth of all rows if that is more


class Status(NamedTuple):
    """How far a traversal has come.

    Attributes:
        picks: rows picked so far.
        radius: insertion radius of the last pick.
        evaluations: distances evaluated so far, in low precision.
        seconds: since the call.
    """

    picks: int
    radius: float
    evaluations: int
    seconds: float

    @property
    def rate(self) -> float:
        """Evaluations per second."""
        return self.evaluations / max(self.seconds, 1e-9)


@dataclass(frozen=True, eq=False)
class KCenter:
    """A farthest-first traversal; its first j picks are the answer for j.

    Attributes:
        indices: (k,) int64 picked rows, in order.
        radius: (k,) float64 distance of each pick to its nearest centre when it was picked; infinity
            where there was no centre before. Never increases, except once, from the last given row
            to the first free pick.
        counters: what it cost.
        state: continue from here, with a larger k (see :func:`kcenter`).
        nearest: (n,) int64, if asked for: each row's nearest centre, as a position in ``indices``, the
            first among equals; -1 - j stands for the j-th given vector.
        distance: (n,) float64, with ``nearest``: the distance to it.
    """

    indices: Int64
    radius: Float64
    counters: Counters
    state: State
    nearest: Int64 | None = None
    distance: Float64 | None = None


def kcenter(
    X: NDArray[Any],
    k: int | None = None,
    *,
    init: NDArray[Any] | None = None,
    start: Start = 0,
    seed: int = 0,
    metric: Metric = "cosine",
    stop_at_radius: float | None = None,
    nearest: bool = False,
    block: int = BLOCK,
    front: int | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[Status], None] | None = None,
    on_state: Callable[[State], None] | None = None,
    state_every: int = 16,
    resume: Mapping[str, NDArray[Any]] | None = None,
) -> KCenter:
    """Pick ``k`` rows, each the farthest from all centres before it.

    Distances are float64 results of one routine on the rows as float32. Cosine distance, 1 - cos, lies
    in [0, 2] and is computed as half the squared distance of the unit vectors; a row of zeros is at
    distance 1 from every other row and at 0 from its like. Among equally far rows the lowest index
    wins; a row equal to a centre is at 0, so duplicates come after everything else.

    Args:
        X: (n, d) rows, float32 or converted to it; a float32 memory map is read, never copied whole.
            In memory stay a copy in the filter's precision and some 50 bytes a row.
        k: number of picks, given rows included, given vectors not; 1 to n. None picks until
            ``stop_at_radius``, or all rows.
        init: starting centres. Integers, (m,): rows, which become the first picks, farthest-first among
            themselves from the lowest index (or ``start``, if it is one of them). Floats, (m, d):
            vectors, for instance K-Means centroids, which are centres but not picks.
        start: the first pick where nothing is given: a row, "central" (the row nearest the mean of the
            rows, as scaled by the metric) or "random" (drawn by ``seed``).
        seed: for ``start="random"``.
        metric: "cosine" or "euclidean".
        stop_at_radius: stop before the first free pick whose radius is at most this: every row is then
            that near to a centre.
        nearest: also find each row's nearest centre, exactly; one more pass over all pairs.
        block: candidates of a round. This and the next four settings never change the result.
        front: rows brought up to date in a round; None is max(8192, n / 8).
        precision: of the filter: "bf16", "f32", or "auto", which tries out whether bfloat16 pays.
        device: "cpu", "cuda", or "auto".
        threads: at most so many threads; None leaves torch's number.
        progress: called after every round.
        on_state: called with a state after every ``state_every`` rounds, and kept by the caller.
        state_every: rounds between two states.
        resume: a state from ``on_state``, from ``KCenter.state`` (with a larger k), or just
            ``{"indices": picks}`` of a traversal with the same rows and settings. The rest of the
            sequence is the same as without the interruption.

    Raises:
        ValueError: a setting or a row cannot be used, with the reason; or ``resume`` belongs elsewhere.
    """
    from dfilter.cluster.precision import exact_products
    from dfilter.cluster.products import Space, checked
    from dfilter.cluster.traversal import Traversal

    rows = checked(X)
    _check(len(rows), k, metric, precision, block, front, state_every)
    given, vectors = _given(init, rows)
    began = time.perf_counter()
    wanted = len(rows) if k is None else k
    with exact_products(threads) as count:
        space = Space(rows, metric, vectors=vectors, precision=precision, device=device, threads=count)
        first = _first_picks(space, given, start, seed)
        if resume is not None:
            _check_state(resume, space, first)
        walk = Traversal(space, block, front or max(FRONT, len(rows) // 8), len(space.V) + (k or block))
        walk.begin(first, resume)
        walk.cut(_allowed(walk.radius, wanted, stop_at_radius, len(first)))
        for _ in walk.rounds(wanted, stop_at_radius):
            if progress is not None:
                elapsed = time.perf_counter() - began
                radius = float(walk.radius[-1]) if len(walk.radius) else math.inf
                progress(Status(len(walk.picks), radius, walk.counters.evaluations, elapsed))
            if on_state is not None and walk.counters.rounds % state_every == 0:
                on_state(walk.state())
        where = distance = None
        if nearest:
            where, distance = _assign(space, walk.centres, walk.counters)
            where = np.where(where < len(space.V), -1 - where, where - len(space.V))
        return KCenter(walk.picks.copy(), walk.radius, walk.counters, walk.state(), where, distance)


def coverage(
    X: NDArray[Any], indices: NDArray[Any], metric: Metric = "cosine", *, precision: Precision = "auto"
) -> tuple[float, float]:
    """Return the covering radius of the rows ``indices`` and the mean distance to the nearest of them.

    Both are over all rows of ``X``, in the units of :func:`kcenter`, from exact float64 distances. K-center
    makes the first small at the price of the second.

    Raises:
        ValueError: a row cannot be used, or an index is none of X's.
    """
    from dfilter.cluster.precision import exact_products
    from dfilter.cluster.products import Centres, Space, checked
    from dfilter.cluster.traversal import Counters

    rows = checked(X)
    kept = _row_indices(indices, len(rows), "indices")
    with exact_products(None) as threads:
        space = Space(rows, metric, precision=precision, threads=threads)
        centres = Centres(space, len(kept))
        centres.add(kept)
        _, distance = _assign(space, centres, Counters())
    return float(distance.max()), float(distance.mean())


def _assign(space: Space, centres: Centres, counters: Counters) -> tuple[Int64, Float64]:
    """Return every row's nearest centre, the first among equals, and the distance to it."""
    value, position, computed = space.nearest(np.arange(len(space.X)), centres)
    counters.evaluations += len(value) * centres.count
    counters.rechecks += computed
    return position, space.distance(value)


def _check(
    n: int, k: int | None, metric: str, precision: str, block: int, front: int | None, state_every: int
) -> None:
    if metric not in {"cosine", "euclidean"}:
        raise ValueError(f"metric is '{metric}'; known are 'cosine' and 'euclidean'.")
    if precision not in {"auto", "bf16", "f32"}:
        raise ValueError(f"precision is '{precision}'; known are 'auto', 'bf16' and 'f32'.")
    if k is not None and not 1 <= k <= n:
        raise ValueError(f"k is {k}, but there are {n} rows to pick from; ask for 1 to {n}.")
    for name, value in (("block", block), ("front", front), ("state_every", state_every)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it has to be at least 1.")


def _row_indices(values: NDArray[Any], n: int, name: str) -> Int64:
    """Return distinct row numbers as they came, or refuse them."""
    rows = np.asarray(values)
    if rows.ndim != 1 or not len(rows) or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"{name} has to be a list of row numbers, found {rows.dtype} of shape {rows.shape}.")
    rows = rows.astype(np.int64)
    if rows.min() < 0 or rows.max() >= n:
        raise ValueError(
            f"{name} names row {rows.min() if rows.min() < 0 else rows.max()}; there are {n} rows."
        )
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"{name} names a row twice; every row can be a centre once.")
    return rows


def _given(init: NDArray[Any] | None, rows: Float32) -> tuple[Int64 | None, Float32 | None]:
    """Tell starting rows (ascending) from starting vectors."""
    from dfilter.cluster.products import checked

    if init is None:
        return None, None
    values = np.asarray(init)
    if values.ndim == 1:
        return np.sort(_row_indices(values, len(rows), "init")), None
    vectors = checked(values, "init")
    if vectors.shape[1] != rows.shape[1]:
        raise ValueError(f"init has vectors of {vectors.shape[1]} numbers, the rows have {rows.shape[1]}.")
    return None, vectors


def _first_picks(space: Space, given: Int64 | None, start: Start, seed: int) -> Int64:
    """Return the picks that are not free: the given rows, or the start, or none beside given vectors."""
    if given is not None:
        begin: Start = start if isinstance(start, str) else int((given == start).argmax())  # else the lowest
        metric: Metric = "cosine" if space.cosine else "euclidean"
        among = kcenter(space.X[given], len(given), start=begin, seed=seed, metric=metric, device="cpu")
        return given[among.indices]
    if len(space.V):
        return np.empty(0, np.int64)
    if start == "random":
        return np.random.default_rng(seed).integers(len(space.X), size=1)
    if start == "central":
        return _central(space)
    return _row_indices(np.array([start]), len(space.X), "start")


def _central(space: Space) -> Int64:
    """Return the row nearest the mean of the scaled rows, the lowest among equals."""
    parts = [slice(begin, begin + CHUNK) for begin in range(0, len(space.X), CHUNK)]
    mean = np.zeros(space.X.shape[1])
    for part in parts:
        mean += (space.X[part] * space.scale[: len(space.X), None][part]).sum(axis=0) / len(space.X)
    square = np.empty(len(space.X))
    for part in parts:
        square[part] = ((space.X[part] * space.scale[: len(space.X), None][part] - mean) ** 2).sum(axis=1)
    return np.array([square.argmin()])


def _allowed(radius: Float64, wanted: int, stop: float | None, fixed: int) -> int:
    """Return how many of the picks so far the settings allow; ``stop`` does not concern the fixed ones."""
    near = np.flatnonzero(radius[fixed:] <= stop) if stop is not None else np.empty(0, np.int64)
    allowed = fixed + int(near[0]) if near.size else len(radius)
    return min(wanted, allowed)


def _check_state(state: Mapping[str, NDArray[Any]], space: Space, first: Int64) -> None:
    """Refuse a state of other rows, another metric or other starting centres."""
    n = len(space.X)
    picks = np.asarray(state["indices"])
    if len(picks):  # beside given vectors a traversal may have stopped before its first pick
        picks = _row_indices(picks, n, "resume['indices']")
    length = min(len(picks), len(first))
    metric = "cosine" if space.cosine else "euclidean"
    here = {"shape": list(space.X.shape), "given": len(space.V), "metric": metric}
    for name, expected in here.items():
        if name in state and (found := np.asarray(state[name]).tolist()) != expected:
            raise ValueError(
                f"The state to resume has {name} {found}, this traversal {expected}; start anew."
            )
    differs = np.flatnonzero(picks[:length] != first[:length])
    if len(differs):
        at = int(differs[0])
        raise ValueError(
            f"The state to resume has row {picks[at]} as its pick number {at + 1}, this traversal row "
            f"{first[at]}; start anew, or with the settings it came from."
        )
    if "bound" in state and (len(state["bound"]) != n or len(state.get("seen", ())) != n):
        raise ValueError(
            f"The state to resume holds bounds of {len(state['bound'])} rows, here are {n}; start anew."
        )
