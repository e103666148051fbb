"""Compiled routines for k-center: the value of a pair, and the scans that decide which pairs need it.

A row enters every routine as ``x * scale``: ``scale`` is 1/|x| for cosine and one power of two,
common to all rows, for Euclidean. The value of a pair is the squared length of the difference of
two scaled rows, so both metrics share one routine, equal rows are at 0 without a special case,
and nothing cancels between rows that almost coincide (which 1 - x.y would).

A score is ``a.b - |b|^2 / 2`` for a row a and a centre b, computed in low precision elsewhere; the
larger the score, the nearer the centre: |a - b|^2 = |a|^2 - 2 score. Products a.b arrive as float32,
or as the bits of bfloat16 in uint16, since NumPy has no such type.

All compiled routines stand in this one file: Numba's kept machine code follows changes of the file that
a routine stands in, not of those it calls into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Routine = TypeVar("Routine", bound=Callable[..., Any])

LANES = 64  # independent sums of a pair: part of the definition of its value
FLIP = np.int32(0x7FFFFFFF)
LOWEST = np.int32(-0x80000000)
REORDERED = {"reassoc", "contract", "nsz"}  # where a sum is only a bound and may be vectorised


def compiled(**options: Any) -> Callable[[Routine], Routine]:
    """Compile without the interpreter lock, and keep the machine code where a folder can be written.

    Numba looks for a folder beside the source, then in the user's cache, and refuses when there is
    neither (read-only installation, no home); compiling anew in every process is then all that is left.
    """

    def decorate(routine: Routine) -> Routine:
        try:
            return njit(cache=True, nogil=True, **options)(routine)  # type: ignore[no-any-return]
        except RuntimeError:
            return njit(nogil=True, **options)(routine)  # type: ignore[no-any-return]

    return decorate


@compiled()
def lane_sum(x: Float32, x_scale: float, y: Float32, y_scale: float) -> float:
    """Return the sum of (x * x_scale - y * y_scale)^2 in float64, in one fixed order.

    Element i belongs to lane i mod 64, and lanes are added by halves. Nothing is fused or reordered, so
    the bits are the same on every machine; lanes let the processor work on several elements at once.
    """
    lanes = np.zeros(LANES)
    whole = x.shape[0] - x.shape[0] % LANES
    for begin in range(0, whole, LANES):
        a = x[begin : begin + LANES]
        b = y[begin : begin + LANES]
        for j in range(LANES):
            t = a[j] * x_scale - b[j] * y_scale
            lanes[j] += t * t
    for j in range(x.shape[0] - whole):
        t = x[whole + j] * x_scale - y[whole + j] * y_scale
        lanes[j] += t * t
    half = LANES // 2
    while half > 0:
        for j in range(half):
            lanes[j] += lanes[j + half]
        half //= 2
    return float(lanes[0])


@compiled()
def pair(x: Float32, x_scale: float, y: Float32, y_scale: float) -> float:
    """Return the squared distance of two scaled rows: the value that decides every comparison.

    A scale of 0 marks a row of zeros under cosine. It points in a direction of its own: 2 from any
    other row (cosine distance 1), 0 from its like.
    """
    if (x_scale == 0.0) != (y_scale == 0.0):
        return 2.0
    return lane_sum(x, x_scale, y, y_scale)


@compiled()
def square_norms(start: int, stop: int, X: Float32, out: Float64) -> None:
    """Write |x|^2 of rows start to stop; a row with NaN or infinity gives NaN or infinity."""
    for i in range(start, stop):
        out[i] = lane_sum(X[i], 1.0, X[i], 0.0)


@compiled()
def to_float(bits: Any) -> Any:
    """Return the float32 that a bfloat16's bits stand for; a float32 passes through."""
    if isinstance(bits, np.uint16):
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    return bits


@compiled()
def to_filter(value: Any, target: Any) -> Any:
    """Round a float32 to the type of ``target``, to nearest with ties to even."""
    if isinstance(target, np.uint16):
        bits = np.float32(value).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return value


@compiled(fastmath=REORDERED)
def pack(start: int, stop: int, X: Float32, scale: Float64, out: Any, size: Float64, lost: Float64) -> None:
    """Write rows start to stop, scaled and rounded, with the length kept and the length lost.

    A row of zeros under cosine gets its 1 in the column behind the last, which exists if any does.
    """
    width = X.shape[1]
    zero = to_filter(np.float32(0.0), out[0, 0])
    for i in range(start, stop):
        kept = gone = 0.0
        for j in range(width):
            exact = X[i, j] * scale[i]
            bits = to_filter(np.float32(exact), out[0, 0])
            out[i, j] = bits
            value = np.float64(to_float(bits))
            kept += value * value
            gone += (exact - value) * (exact - value)
        for j in range(width, out.shape[1]):
            out[i, j] = zero
        if scale[i] == 0.0:
            out[i, width] = to_filter(np.float32(1.0), out[0, 0])
            kept = 1.0
        size[i] = np.sqrt(kept)
        lost[i] = np.sqrt(gone)


@compiled()
def highest(row: Any, half: Float32) -> Any:
    """Return the largest score of a row of products.

    Floats are compared as integers of the same order: an integer maximum may be reordered, hence
    vectorised, where a maximum of floats may not.
    """
    key = LOWEST
    for c in range(row.shape[0]):
        bits = np.float32(to_float(row[c]) - half[c]).view(np.int32)
        key = max(key, bits ^ ((bits >> np.int32(31)) & FLIP))
    return np.int32(key ^ ((key >> np.int32(31)) & FLIP)).view(np.float32)


@compiled()
def best_score(start: int, stop: int, products: Any, half: Float32, out: Float32) -> None:
    """Raise out[i] to the largest score in row i of ``products``, for rows start to stop."""
    for i in range(start, stop):
        out[i] = max(out[i], highest(products[i], half))


@compiled()
def tighten(
    rows: Int64, best: Float32, square: Float64, margin: Float64, bound: Float64, exact: NDArray[np.bool_]
) -> None:
    """Lower the bounds of rows whose best score among some more centres is ``best``.

    The nearest of those centres lies between ``square - 2 (best + margin)`` and
    ``square - 2 (best - margin)``. If even the former is no less than an exact bound, that stays exact.
    """
    for i in range(rows.shape[0]):
        r = rows[i]
        middle = square[r] - 2.0 * best[i]
        if exact[r] and middle - 2.0 * margin[r] >= bound[r]:
            continue
        exact[r] = bound[r] == 0.0
        bound[r] = min(bound[r], middle + 2.0 * margin[r])


@compiled()
def recheck(
    start: int,
    stop: int,
    products: Any,
    half: Float32,
    first: int,
    rows: Int64,
    last: Int64,
    centres: Int64,
    X: Float32,
    V: Float32,
    scale: Float64,
    square: Float64,
    margin: Float64,
    value: Float64,
    nearest: Int64,
) -> int:
    """Compute exactly every pair whose score could make it the nearest; return how many these were.

    The columns are the centres from ``first`` on; row i may use those before ``last[i]``. ``value`` and
    ``nearest`` hold the smallest value among earlier columns and the first centre that has it, or
    infinity and -1, and leave as the same with these columns. Ids of centres beyond X's rows are V's.
    """
    count = 0
    for i in range(start, stop):
        r = rows[i]
        columns = min(products.shape[1], last[i] - first)
        threshold = 0.5 * (square[r] - value[i]) - margin[r]
        if columns <= 0:
            continue
        best = highest(products[i, :columns], half[:columns])
        if best < threshold:
            continue
        threshold = max(threshold, best - 2.0 * margin[r])
        for c in range(columns):
            if to_float(products[i, c]) - half[c] < threshold:
                continue
            other = centres[first + c]
            y = X[other] if other < X.shape[0] else V[other - X.shape[0]]
            distance = pair(X[r], scale[r], y, scale[other])
            count += 1
            if distance < value[i]:
                value[i] = distance
                nearest[i] = first + c
                threshold = max(threshold, 0.5 * (square[r] - distance) - margin[r])
    return count


@compiled()
def assign(
    start: int,
    stop: int,
    products: Any,
    half: Float32,
    first: int,
    X: Float32,
    V: Float32,
    scale: Float64,
    margin: Float64,
    label: Int64,
) -> int:
    """Write the nearest of V's vectors, the first among equals, for row ``first + i`` of every i.

    Pairs are computed only where more than one vector could be the nearest; returns how many.
    """
    count = 0
    offset = X.shape[0]
    for i in range(start, stop):
        r = first + i
        row = products[i]
        threshold = highest(row, half) - 2.0 * margin[r]
        nearest, value = -1, np.inf
        for c in range(row.shape[0]):
            if to_float(row[c]) - half[c] < threshold:
                continue
            if nearest < 0:
                nearest = c  # perhaps the only one, which needs no value
                continue
            if value == np.inf:
                value = pair(X[r], scale[r], V[nearest], scale[offset + nearest])
                count += 1
            distance = pair(X[r], scale[r], V[c], scale[offset + c])
            count += 1
            if distance < value:
                nearest, value = c, distance
        label[r] = nearest
    return count


@compiled()
def assigned(
    start: int, stop: int, X: Float32, V: Float32, scale: Float64, label: Int64, value: Float64
) -> None:
    """Write the value of each row and the vector of its label."""
    for i in range(start, stop):
        value[i] = pair(X[i], scale[i], V[label[i]], scale[X.shape[0] + label[i]])


@compiled()
def move(
    start: int, stop: int, X: Float32, scale: Float64, rows: Int64, old: Int64, new: Int64, sums: Float64
) -> None:
    """Move scaled rows from the sum of their old label to that of the new, for columns start to stop.

    A label of -1 stands for no sum. Every column adds up in the order of ``rows``, whatever the threads.
    """
    for i in range(rows.shape[0]):
        r = rows[i]
        if old[i] >= 0:
            for j in range(start, stop):
                sums[old[i], j] -= X[r, j] * scale[r]
        for j in range(start, stop):
            sums[new[i], j] += X[r, j] * scale[r]


@compiled()
def first_within(
    start: int,
    stop: int,
    products: Any,
    half: Float32,
    rows: Int64,
    centres: Int64,
    X: Float32,
    scale: Float64,
    square: Float64,
    margin: Float64,
    limit: float,
    hit: Int64,
) -> None:
    """Write the first centre whose value with row i is at most ``limit``, where none is known yet."""
    for i in range(start, stop):
        if hit[i] >= 0:
            continue
        r = rows[i]
        threshold = 0.5 * (square[r] - limit) - margin[r]
        if highest(products[i], half) < threshold:
            continue
        for c in range(products.shape[1]):
            if to_float(products[i, c]) - half[c] < threshold:
                continue
            if pair(X[r], scale[r], X[centres[c]], scale[centres[c]]) <= limit:
                hit[i] = centres[c]
                break


@compiled()
def values(start: int, stop: int, a: Int64, b: Int64, X: Float32, scale: Float64, out: Float64) -> None:
    """Write the values of the pairs of rows ``a`` and ``b``."""
    for i in range(start, stop):
        out[i] = pair(X[a[i]], scale[a[i]], X[b[i]], scale[b[i]])


@compiled()
def walk(earlier: Int64, later: Int64, of: Int64) -> None:
    """Drop each row that has an edge to an earlier, kept one; edges come in the order of both."""
    for e in range(later.shape[0]):
        if of[later[e]] < 0 and of[earlier[e]] < 0:
            of[later[e]] = earlier[e]


@compiled()
def greedy_block(
    products: Any,
    half: Float32,
    rows: Int64,
    value: Float64,
    X: Float32,
    scale: Float64,
    square: Float64,
    margin: Float64,
    outside: float,
    outside_row: int,
    picks: Int64,
    radius: Float64,
) -> tuple[int, int]:
    """Pick farthest-first among candidates with exact values while none outside can be farther.

    ``rows`` ascend, so the first of equals has the lowest index. ``outside`` bounds the value of every
    other row and ``outside_row`` is the lowest row that may attain it. Values of picks become -1; the
    others' are exact for the new picks too. Returns the number of picks and of pairs computed.
    """
    count = computed = 0
    while count < picks.shape[0]:  # of which there are no more than rows
        far = 0
        for j in range(rows.shape[0]):
            if value[j] > value[far]:
                far = j
        if value[far] < 0.0 or value[far] < outside or (value[far] == outside and rows[far] > outside_row):
            break
        picks[count] = far
        radius[count] = value[far]
        value[far] = -1.0
        count += 1
        pick = rows[far]
        for j in range(rows.shape[0]):
            if value[j] <= 0.0:
                continue
            r = rows[j]
            score = to_float(products[far, j]) - half[far]
            if score < 0.5 * (square[r] - value[j]) - margin[r]:
                continue
            computed += 1
            value[j] = min(value[j], pair(X[r], scale[r], X[pick], scale[pick]))
    return count, computed
