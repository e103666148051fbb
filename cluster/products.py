"""Low-precision products of rows and centres, with a proven bound on their error.

The bound. Let a, b be scaled rows (see ``pairs``) and A, B what the filter holds of them, rounded to
bfloat16 or float32. By Cauchy-Schwarz

    |a.b - A.B| = |(a - A).b + A.(b - B)| <= |a - A| |b| + |A| |b - B|,

where |a - A| and |A| are measured for every row while it is packed, and |b| <= |B| + |b - B|. The
machine adds to this. A sum of d products in float32, in any order, rounded or truncated at each step
(tensor cores truncate), errs by at most d 2^-23 / (1 - d 2^-23) |A| |B|; we allow (d + 2) 2^-22. A
result stored as bfloat16 (8 significant bits, to nearest) errs by 2^-8 |A| |B|. Subtracting |b|^2 / 2
in float32, itself rounded, errs by at most 2^-23 (|A| |B| + |b|^2). Scaling makes the longest row at
most 1, so that what falls below float32's range is covered by 2^-100, and float64's own errors (pair
routine, these formulas) by 2^-40 (|a|^2 + |b|^2). Every |B|, |b|, |b - B| is taken at its largest over
all rows, which leaves one margin for each row, whatever the centre.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dfilter.cluster import pairs
from dfilter.cluster.precision import bf16_pays

Metric: TypeAlias = Literal["cosine", "euclidean"]
Precision: TypeAlias = Literal["auto", "bf16", "f32"]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

COLUMNS = 1024  # centres in one product
OUTPUT = {"cpu": 2 << 20, "cuda": 32 << 20}  # values in one product; on a CPU it should stay in the cache
READ_ROWS = 1 << 16  # rows read at once from a memory map
PART_ROWS = 64  # fewer are not worth a thread


def checked(X: Any, name: str = "X") -> Float32:
    """Return ``X`` as read-only, row-contiguous float32 without copying what already is.

    Raises:
        ValueError: ``X`` is not a matrix of at least one row and column.
    """
    if getattr(X, "ndim", 0) != 2 or 0 in X.shape:
        found = getattr(X, "shape", type(X).__name__)
        raise ValueError(f"{name} has to be a matrix with one row per vector, found {found}.")
    rows = np.ascontiguousarray(X, dtype=np.float32).view(np.ndarray)
    rows = rows[:]
    rows.flags.writeable = False  # one type for every routine to be compiled for
    return rows


class Space:
    """Rows under one metric: scales and lengths, a low-precision copy, the margin of every row.

    A point's id is its row in ``X``, or n + its row in ``vectors``.

    Args:
        X: (n, d) as :func:`checked` returns it; may be a memory map.
        metric: "cosine" or "euclidean".
        vectors: (m, d) centres that are not rows, likewise checked.
        precision: of the copy; "auto" takes bfloat16 where it pays.
        device: "auto", "cpu" or "cuda".
        threads: at most so many threads, ours; torch's own products should take one each.

    Raises:
        ValueError: a row holds NaN or infinity.
    """

    def __init__(
        self,
        X: Float32,
        metric: Metric,
        *,
        vectors: Float32 | None = None,
        precision: Precision = "auto",
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        self.X = X
        self.V = X[:0] if vectors is None else vectors
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.cuda = self.device.startswith("cuda")
        half = precision == "bf16" or (precision == "auto" and bf16_pays("cuda" if self.cuda else "cpu"))
        self.dtype = torch.bfloat16 if half else torch.float32
        self.batch = OUTPUT["cuda" if self.cuda else "cpu"] // COLUMNS
        self.threads = threads
        self._pool = ThreadPoolExecutor(self.threads)
        self.cosine = metric == "cosine"
        norms = np.concatenate([self._norms(self.X, "Row"), self._norms(self.V, "Given centre")])
        exponent = 0 if self.cosine else int(np.frexp(np.sqrt(norms.max()))[1])
        self.unit = float(np.ldexp(1.0, -exponent))
        self.scale, self.square = self._scaled(norms)
        self.width = X.shape[1] + int(self.cosine and not self.scale.all())
        rows, self._size, self._lost = self._packed(self.X, self.scale[: len(X)])
        vectors_packed, size, lost = self._packed(self.V, self.scale[len(X) :])
        self.rows, self.vectors = self._homed(rows), vectors_packed.to(self.device)
        size, lost = np.concatenate([self._size, size]), np.concatenate([self._lost, lost])
        self.margin = self._margins(size, lost, self.square)
        self._buffers = _Buffers(self)

    def move(self, vectors: Float32) -> None:
        """Put others in the place of the given vectors; from now on they are the only centres."""
        n = len(self.X)
        self.V = vectors
        self.scale[n:], self.square[n:] = self._scaled(self._norms(vectors, "Centroid"))
        packed, size, lost = self._packed(vectors, self.scale[n:])
        self.vectors = packed.to(self.device)
        self.margin = self._margins(size, lost, self.square[n:])

    def distance(self, value: Float64) -> Float64:
        """Return what users see of squared scaled distances: 1 - cosine, or the Euclidean distance."""
        return np.asarray(value / 2 if self.cosine else np.sqrt(value) / self.unit)

    def each(self, routine: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        """Run ``routine(start, stop, *args)`` over parts of ``range(count)``, one for each thread."""
        parts = min(self.threads, max(count // PART_ROWS, 1))
        edges = [count * i // parts for i in range(parts + 1)]
        return self.all([(routine, a, b, *args) for a, b in pairwise(edges)])

    def all(self, tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run tasks (routine, *args) in the threads; a CUDA device takes them one by one."""
        if len(tasks) == 1 or self.threads == 1 or self.cuda:
            return [routine(*args) for routine, *args in tasks]
        return list(self._pool.map(lambda task: task[0](*task[1:]), tasks))

    def split(self, count: int) -> list[slice]:
        """Cut ``range(count)`` into batches for products, one for each thread or more."""
        size = min(self.batch, max(PART_ROWS, -(-count // self.threads)))
        return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]

    def take(self, ids: Int64) -> torch.Tensor:
        """Return packed points on the device; the result is valid until this thread's next call."""
        n = len(self.X)
        if len(self.V) and ids.max(initial=0) >= n:
            given = torch.from_numpy(ids >= n).to(self.device)[:, None]
            vectors = self.vectors[torch.from_numpy(np.maximum(ids - n, 0)).to(self.device)]
            return torch.where(given, vectors, self.take(np.minimum(ids, n - 1)))
        if len(ids) and ids[-1] - ids[0] == len(ids) - 1 and (np.diff(ids) == 1).all():
            return self.rows[ids[0] : ids[-1] + 1].to(self.device)
        out = self._buffers.rows[: len(ids)] if len(ids) <= self.batch else None
        index = torch.from_numpy(ids).to(self.rows.device)
        return torch.index_select(self.rows, 0, index, out=out).to(self.device)

    def multiply(self, rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Return the (rows, centres) products; the result is valid until this thread's next call."""
        shape = (len(rows), len(centres))
        flat = self._buffers.output[
            : shape[0] * shape[1]
        ]  # memory from the system would cost more than the product
        return torch.mm(rows, centres.T, out=flat.view(shape) if len(flat) == shape[0] * shape[1] else None)

    def best_scores(self, ids: Int64, centres: Centres, first: int) -> Float32:
        """Return each row's largest score among the centres from ``first`` on; for one batch."""
        rows = self.take(ids)
        best = np.full(len(ids), -np.inf, np.float32)
        for start in range(first, centres.count, COLUMNS):
            packed, half = centres.part(start, min(start + COLUMNS, centres.count))
            products = self.multiply(rows, packed)
            if self.cuda:
                scores = products.float().sub_(torch.from_numpy(half).to(self.device)).amax(1)
                np.maximum(best, scores.cpu().numpy(), out=best)
            else:
                pairs.best_score(0, len(ids), as_numpy(products), half, best)
        return best

    def nearest(
        self,
        ids: Int64,
        centres: Centres,
        *,
        first: int = 0,
        last: Int64 | None = None,
        value: Float64 | None = None,
    ) -> tuple[Float64, Int64, int]:
        """Return each row's exact smallest value, the first centre that has it, and the pairs computed.

        Only centres from ``first`` and, for row i, before ``last[i]`` count, and only if nearer than
        ``value[i]``; where there are none, the value stays (infinity) and the centre is -1.
        """
        last = np.full(len(ids), centres.count) if last is None else last
        value = np.full(len(ids), np.inf) if value is None else value.copy()
        nearest = np.full(len(ids), -1)

        def batch(part: slice) -> int:
            rows, size = self.take(ids[part]), part.stop - part.start
            columns, count = max(COLUMNS, self.batch * COLUMNS // size), 0
            points = centres.ids, self.X, self.V, self.scale, self.square, self.margin
            for start in range(first, centres.count, columns):
                packed, half = centres.part(start, min(start + columns, centres.count))
                table = as_numpy(self.multiply(rows, packed))
                found = (value[part], nearest[part])
                count += pairs.recheck(0, size, table, half, start, ids[part], last[part], *points, *found)
            return count

        return value, nearest, sum(self.all([(batch, part) for part in self.split(len(ids))]))

    def assign(self) -> tuple[Int64, int]:
        """Return every row's nearest given vector, the first among equals, and the pairs computed."""
        n, label = len(self.X), np.empty(len(self.X), np.int64)
        half = (self.square[n:] / 2).astype(np.float32)

        def batch(start: int, stop: int) -> int:
            table = as_numpy(self.multiply(self.take(np.arange(start, stop)), self.vectors))
            points = self.X, self.V, self.scale, self.margin, label
            return int(pairs.assign(0, stop - start, table, half, start, *points))

        size = max(1, min(self.batch, self.batch * COLUMNS // len(self.V)))
        tasks = [(batch, start, min(start + size, n)) for start in range(0, n, size)]
        return label, sum(self.all(tasks))

    def add_up(self, ids: Int64, old: Int64, new: Int64, sums: Float64) -> None:
        """Move scaled rows from the sums of their old labels (-1: none) to those of the new."""
        self.each(pairs.move, sums.shape[1], self.X, self.scale, ids, old, new, sums)

    def to_assigned(self, label: Int64) -> Float64:
        """Return every row's exact squared scaled distance to the given vector of its label."""
        value = np.empty(len(self.X))
        self.each(pairs.assigned, len(self.X), self.X, self.V, self.scale, label, value)
        return value

    def _norms(self, X: Float32, what: str) -> Float64:
        """Return |x|^2 of every row, or refuse the first that is not finite."""
        norms = np.empty(len(X))
        for start in range(0, len(X), READ_ROWS):
            block = X[start : start + READ_ROWS]
            self.each(pairs.square_norms, len(block), block, norms[start:])
        wrong = np.flatnonzero(~np.isfinite(norms))
        if len(wrong):
            raise ValueError(
                f"{what} {wrong[0]} holds NaN or infinity ({len(wrong)} of {len(X)} do); every "
                "vector has to be finite. Leave such rows out, or compute them anew."
            )
        return norms

    def _scaled(self, norms: Float64) -> tuple[Float64, Float64]:
        """Return scale and squared scaled length of points with these squared norms."""
        if not self.cosine:
            return np.full(len(norms), self.unit), norms * self.unit**2
        scale = np.divide(1.0, np.sqrt(norms), out=np.zeros_like(norms), where=norms > 0)
        return scale, np.ones_like(norms)

    def _packed(self, X: Float32, scale: Float64) -> tuple[torch.Tensor, Float64, Float64]:
        """Return the low-precision copy, and of each row the length kept and the length lost."""
        rows = torch.empty((len(X), self.width), dtype=self.dtype)
        size, lost = np.empty(len(X)), np.empty(len(X))
        table = as_numpy(rows)
        for start in range(0, len(X), READ_ROWS):
            part = slice(start, start + READ_ROWS)
            self.each(pairs.pack, len(X[part]), X[part], scale[part], table[part], size[part], lost[part])
        return rows, size, lost

    def _margins(self, size: Float64, lost: Float64, square: Float64) -> Float64:
        """Return the largest error of each row's scores with centres of these lengths: the module's bound."""
        product = self._size * size.max()
        rounding = (self.width + 2) * 2.0**-22 + (2.0**-8 if self.dtype == torch.bfloat16 else 0.0)
        margin = self._lost * (size + lost).max() + self._size * lost.max()
        margin += rounding * product + 2.0**-23 * (product + square.max())
        return np.asarray(
            margin * (1 + 2.0**-20) + 2.0**-40 * (self.square[: len(self.X)] + square.max()) + 2.0**-100
        )

    def _homed(self, rows: torch.Tensor) -> torch.Tensor:
        """Move the copy to the device if it takes at most two thirds of what is free there."""
        if self.cuda and rows.nbytes * 3 <= torch.cuda.mem_get_info(self.device)[0] * 2:
            return rows.to(self.device)
        return rows


class _Buffers(threading.local):
    """Memory for one batch, each thread's own."""

    def __init__(self, space: Space) -> None:
        self.rows = torch.empty((space.batch, space.width), dtype=space.dtype, device=space.rows.device)
        self.output = torch.empty(space.batch * COLUMNS, dtype=space.dtype, device=space.device)


class Centres:
    """Chosen points in order, packed to be multiplied with rows."""

    def __init__(self, space: Space, capacity: int) -> None:
        self._space = space
        self.count = 0
        self.ids = np.empty(max(capacity, 1), np.int64)
        self.half = np.empty(max(capacity, 1), np.float32)
        self._packed = torch.empty((max(capacity, 1), space.width), dtype=space.dtype, device=space.device)

    def add(self, ids: Int64) -> None:
        """Append points."""
        end = self.count + len(ids)
        if end > len(self.ids):
            more = max(end, 2 * len(self.ids)) - len(self.ids)
            self.ids = np.concatenate([self.ids, np.empty(more, np.int64)])
            self.half = np.concatenate([self.half, np.empty(more, np.float32)])
            self._packed = torch.cat([self._packed, torch.empty_like(self._packed[:1]).expand(more, -1)])
        self.ids[self.count : end] = ids
        self.half[self.count : end] = self._space.square[ids] / 2
        for start in range(self.count, end, COLUMNS):
            stop = min(start + COLUMNS, end)
            self._packed[start:stop] = self._space.take(self.ids[start:stop])
        self.count = end

    def part(self, first: int, stop: int) -> tuple[torch.Tensor, Float32]:
        """Return the packed centres from ``first`` to ``stop``, and half their squared lengths."""
        return self._packed[first:stop], self.half[first:stop]


def as_numpy(table: torch.Tensor) -> NDArray[Any]:
    """Return a tensor's values, bfloat16 as the bits in uint16; shares memory on the CPU."""
    table = table.cpu()
    return table.view(torch.uint16).numpy() if table.dtype == torch.bfloat16 else table.numpy()
