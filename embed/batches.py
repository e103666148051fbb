"""Length-sorted batches under a token budget, and padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def token_batches(lengths: Sequence[int] | NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Cut rows into batches of similar length, longest first.

    Longest first, so that a batch that does not fit in memory fails at once. Ties keep their order:
    the same lengths always give the same batches.

    Args:
        lengths: (n,) tokens of every row.
        budget: padded tokens a batch may hold; a single longer row makes a batch of its own.

    Returns:
        Row indices of each batch; together a permutation of range(n).
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop = start + max(1, budget // max(1, int(sizes[order[start]])))
        batches.append(order[start:stop])
        start = stop
    return batches


def pad(sequences: Sequence[Sequence[int]], value: int, side: str = "right") -> NDArray[np.int64]:
    """Return the sequences as one (n, longest) array, filled up with ``value`` on one side."""
    width = max((len(sequence) for sequence in sequences), default=0)
    out = np.full((len(sequences), width), value, dtype=np.int64)
    for row, sequence in zip(out, sequences, strict=True):
        if len(sequence) and side == "left":
            row[width - len(sequence) :] = sequence
        else:
            row[: len(sequence)] = sequence
    return out
