"""How far two computations of one signal may lie apart, and what lies further.

Rounding is no single number. It grows with what is summed, it is finer in a wider number format, and it
averages out over many tokens; so a signal says for every row what it allows there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.types import Signal

# Of a signal that states none: so much, or this share of what is longer than 1.
UNSTATED = 1e-5


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where two computations lie further apart than the signal allows.

    Attributes:
        field: of the value; empty where it has none.
        row: its place.
        found: Euclidean length of the difference; infinite where a number stands against none, or
            where texts differ.
        allowed: what the signal allows there.
    """

    field: str
    row: int
    found: float
    allowed: float


def disagreement(signal: Signal, values: NDArray[Any], others: NDArray[Any]) -> Disagreement | None:
    """Compare two computations of a signal over the same rows, field by field and row by row.

    Args:
        signal: whose tolerance holds; see :class:`~dfilter.types.Signal`.
        values: (n, *shape), from which the tolerance is taken.
        others: the same rows' values from another batch size, thread count, device or engine.

    Returns:
        The place that goes furthest beyond its tolerance, none where all rows agree.
    """
    stated = signal.tolerance(values) if hasattr(signal, "tolerance") else {}
    worst, most = None, 0.0
    for name in values.dtype.names or ("",):
        one, other = (part[name] if name else part for part in (values, others))
        found = _apart(one, other)
        allowed = _allowed(stated, name, one)
        # Nothing allows a number against none, not even a tolerance that is infinite or NaN itself.
        beyond = (found > 0) & (np.isinf(found) | ~(found <= allowed))
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(beyond, np.nan_to_num(found / allowed, nan=np.inf), 0.0)
        row = int(times.argmax()) if len(times) else 0
        if beyond.any() and times[row] > most:
            worst = Disagreement(name, row, float(found[row]), float(allowed[row]))
            most = float(times[row])
    return worst


def _allowed(
    stated: NDArray[Any] | Mapping[str, NDArray[Any]], name: str, values: NDArray[Any]
) -> NDArray[np.float64]:
    """Return what is allowed at every row of one field, (n,)."""
    if not isinstance(stated, Mapping):
        return np.asarray(stated, dtype=np.float64)
    if name in stated:
        return np.asarray(stated[name], dtype=np.float64)
    if values.dtype.kind != "f":
        return np.zeros(len(values))
    return UNSTATED * np.maximum(1.0, lengths(values))


def lengths(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Euclidean length of every row's numbers, (n,)."""
    found: NDArray[np.float64] = np.linalg.norm(_flat(values).astype(np.float64), axis=1)
    return found


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def _apart(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the length of every row's difference, (n,)."""
    one, other = _flat(one), _flat(other)
    if one.dtype.kind not in "biuf":
        return np.where((one == other).all(axis=1), 0.0, np.inf)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, one.astype(np.float64) - other.astype(np.float64))
    return lengths(np.where(np.isnan(gaps), np.inf, gaps))
