"""What a filter returned, checked against the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfilter.errors import SettingsError
from dfilter.types import Filter, Scores


def checked(made: Filter, given: Any, rows: int) -> Scores:
    """Return a filter's scores, or say in which way they break the contract.

    Raises:
        SettingsError: the filter did not return Scores, or not one finite or NaN value a row.
    """
    name = type(made).__name__
    if not isinstance(given, Scores):
        raise SettingsError(f"Filter {name} returned {type(given).__name__}; expected dfilter.Scores.")
    try:
        values = np.asarray(given.values, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"Filter {name} returned scores that are no numbers: {error}.") from error
    if values.shape != (rows,):
        raise SettingsError(f"Filter {name} returned scores of shape {values.shape}; expected ({rows},).")
    if np.isinf(values).any():
        raise SettingsError(f"Filter {name} returned an infinite score; use NaN to abstain.")
    for part in ("groups", "reasons"):
        found = getattr(given, part)
        if found is not None and len(found) != rows:
            raise SettingsError(f"Filter {name} returned {len(found)} {part} for {rows} rows.")
    if given.groups is not None and np.asarray(given.groups).dtype.kind not in "iu":
        raise SettingsError(f"Filter {name} returned groups that are no whole numbers.")
    return replace(given, values=values)


def jsonable(value: Any) -> Any:
    """Return a filter's figures as JSON: numpy's numbers as Python's, NaN and infinity as words."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | list | tuple | set):
        return [jsonable(inner) for inner in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def part(given: Scores, rows: NDArray[np.int64]) -> Scores:
    """Return the scores of some rows."""
    return Scores(
        values=given.values[rows],
        groups=None if given.groups is None else np.asarray(given.groups)[rows],
        reasons=None if given.reasons is None else [given.reasons[int(i)] for i in rows],
        facts=given.facts,
    )
