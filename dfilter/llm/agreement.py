"""How far ratings agree: with each other, with themselves, with people. Arrays in, numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks 1..n of ``values`` (n,), ties at their mean; NaN stays NaN."""
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    _, inverse, sizes = np.unique(values[known], return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    out[known] = (ends - (sizes - 1) / 2)[inverse]
    return out


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation over the places where both are known, in [-1, 1].

    NaN when fewer than 3 places are known, or when one side is constant.
    """
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 3:
        return float("nan")
    x, y = ranks(a[both]), ranks(b[both])
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive row is rated above a negative one, ties counting half.

    NaN where there are no positives or no negatives among the rated rows.
    """
    known = ~np.isnan(scores)
    x, y = scores[known], positive[known]
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    if not n_pos or not n_neg:
        return float("nan")
    return float((ranks(x)[y].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def best_threshold(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the threshold t for which ``score >= t`` tells the classes apart best, and how well.

    The measure is balanced accuracy, in [0, 1]; of equal thresholds the highest is taken. (NaN, NaN)
    where a class is missing.
    """
    known = ~np.isnan(scores)
    x, y = scores[known], positive[known]
    if not y.any() or y.all():
        return float("nan"), float("nan")
    cuts = np.unique(x)[::-1]
    hits = np.array([((x >= t) & y).sum() / y.sum() for t in cuts])
    passes = np.array([((x < t) & ~y).sum() / (~y).sum() for t in cuts])
    best = int(np.argmax((hits + passes) / 2))
    return float(cuts[best]), float((hits + passes)[best] / 2)


def threshold_for(scores: NDArray[np.float64], share: float) -> tuple[float, float]:
    """Return the rating at which ``score >= t`` keeps the share closest to ``share`` of all rows.

    Returns:
        (threshold, share it keeps); (NaN, 0) when nothing is rated.
    """
    known = scores[~np.isnan(scores)]
    if not len(known):
        return float("nan"), 0.0
    cuts, sizes = np.unique(known, return_counts=True)
    kept = np.cumsum(sizes[::-1])[::-1] / len(scores)
    best = int(np.argmin(np.abs(kept - share)))
    return float(cuts[best]), float(kept[best])


def rounded(value: float, digits: int = 4) -> Any:
    """Return a figure for a summary: rounded, and None where it is not a number."""
    return round(float(value), digits) if np.isfinite(value) else None
