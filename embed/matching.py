"""From lengths, sketches and projections to cosines, and which rows have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.errors import InputError


def unusable(lengths: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return why a row cannot be scored, (n,): 0 it can, 1 no labels, 2 zero gradient, 3 overflow."""
    codes = np.select([np.isnan(lengths), lengths == 0, np.isinf(lengths)], [1, 2, 3], 0)
    return codes.astype(np.int64)


def normalised(values: NDArray[np.void]) -> NDArray[np.float64]:
    """Return sketches or projections as (n, width) directions; zeros where there is none.

    A sketch is divided by the exact length, because its own has an error; a projection by its own, as
    the released code does.
    """
    if "code" in (values.dtype.names or ()):
        return divided(values["code"] * values["scale"].astype(np.float64)[:, None], values["length"])
    vectors = values["vector"].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    return divided(vectors, np.where(unusable(values["length"]), np.nan, lengths))


def mean_directions(
    wanted: NDArray[np.void], subtask: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the mean direction of each subtask's usable rows, (s, width), and their numbers, (s,).

    Raises:
        InputError: a subtask has no usable row.
    """
    good = unusable(wanted["length"]) == 0
    sizes = np.bincount(subtask[good], minlength=len(names))
    if not sizes.all():
        empty = ", ".join(name for name, size in zip(names, sizes.tolist(), strict=True) if not size)
        raise InputError(f"No row of the target's subtask {empty} has a usable gradient.")
    means = np.zeros((len(names), normalised(wanted[:1]).shape[1]))
    np.add.at(means, subtask[good], normalised(wanted[good]))
    return means / sizes[:, None], sizes


def divided(values: NDArray[np.float64], lengths: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return (n, m) values divided by their rows' lengths, (n,); rows without a usable one become zeros."""
    usable = np.isfinite(lengths) & (lengths > 0)
    return np.where(usable[:, None], values, 0.0) / np.where(usable, lengths, 1.0)[:, None].astype(np.float64)
