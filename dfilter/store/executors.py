"""Who computes shards. The local executor is one answer; a cluster engine gives another.

An executor gets the signal (a frozen dataclass), the rows, and the shards to compute; everything it
needs is in files or can be rebuilt from names and settings, so nothing above it may assume one
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dfilter.data.dataset import Dataset
from dfilter.errors import StoreError
from dfilter.store.shards import Shards, shard_name
from dfilter.types import Bar, Signal


class Executor(Protocol):
    """Computes the shards of a signal and stores them."""

    def run(
        self, signal: Signal, rows: Dataset, shards: Sequence[NDArray[np.int64]], store: Shards, bar: Bar
    ) -> int:
        """Leave every shard stored; return the number of rows that this call computed itself."""
        ...


@dataclass(frozen=True)
class Local:
    """One shard after the other in this process; several processes share the shards between them."""

    def run(
        self, signal: Signal, rows: Dataset, shards: Sequence[NDArray[np.int64]], store: Shards, bar: Bar
    ) -> int:
        """See :class:`Executor`. Shards that another process holds are left to it and checked at the end."""
        computed = 0
        held_elsewhere = []
        for shard in shards:
            done = _compute(signal, rows, shard, store, bar, wait=False)
            if done is None:
                held_elsewhere.append(shard)
            computed += done or 0
        for shard in held_elsewhere:
            computed += _compute(signal, rows, shard, store, bar, wait=True) or 0
        return computed


def _compute(
    signal: Signal, rows: Dataset, shard: NDArray[np.int64], store: Shards, bar: Bar, *, wait: bool
) -> int | None:
    """Compute one shard; return the rows computed, or none when another process holds it."""
    keys = rows.keys[shard]
    name = shard_name(keys)
    with store.claim(name, wait=wait) as mine:
        if not mine:
            return None
        todo = not store.has(name)
        if todo:
            batch = rows.take(shard)
            values = _checked(signal, signal.compute(batch), len(batch))
            keep = _stored(signal, values)
            if keep.any():
                store.write(name, keys[keep], values[keep])
        bar.advance(float(rows.lengths[shard].sum()))
        return len(shard) if todo else 0


def _stored(signal: Signal, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows' values are stored: all, or of a signal that must be finite those that are."""
    if not getattr(signal, "finite", False):
        return np.ones(len(values), np.bool_)
    found: NDArray[np.bool_] = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return found


def _checked(signal: Signal, values: Any, rows: int) -> NDArray[Any]:
    """Refuse what cannot be stored, naming the signal."""
    name = type(signal).__name__
    if not isinstance(values, np.ndarray) or values.dtype.hasobject:
        raise StoreError(
            f"Signal {name} must return an array of numbers, not {type(values).__name__} of objects."
        )
    if values.ndim == 0 or len(values) != rows:
        raise StoreError(
            f"Signal {name} returned shape {values.shape} for {rows} rows; expected one value a row."
        )
    return values
