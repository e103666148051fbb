"""Conditions on columns: ``task=nli``, ``meta/source!=web``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.errors import SettingsError, UnknownNameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.data.dataset import Dataset

_CONDITION = re.compile(r"(.+?)(!=|=)(.*)", re.DOTALL)


def matching(rows: Dataset, conditions: str | Sequence[str]) -> NDArray[np.int64]:
    """See :meth:`dfilter.data.dataset.Dataset.where`."""
    kept = np.ones(len(rows), dtype=bool)
    for condition in [conditions] if isinstance(conditions, str) else conditions:
        match = _CONDITION.fullmatch(condition.strip())
        if match is None:
            raise SettingsError(f"'{condition}' is no condition; write column=value or column!=value.")
        column, sign, wanted = (part.strip() for part in match.groups())
        values = rows.column(column)
        if all(value is None for value in values) and column not in (known := _known_columns(rows)):
            raise UnknownNameError("column", column, known)
        kept &= np.array([_equals(value, wanted) for value in values], dtype=bool) == (sign == "=")
    return np.flatnonzero(kept)


def _known_columns(rows: Dataset) -> list[str]:
    known = dict.fromkeys(rows.columns)
    for index in range(min(len(rows), 100)):
        for name, value in rows.fields(index).items():
            if isinstance(value, Mapping):
                known.update(dict.fromkeys(f"{name}/{inner}" for inner in value))
    return list(known)


def _equals(value: Any, wanted: str) -> bool:
    if isinstance(value, str):
        return value == wanted
    if value is None:
        return wanted == "null"
    if isinstance(value, bool):
        return wanted == ("true" if value else "false")
    if isinstance(value, (int, float)):
        try:
            return value == (int(wanted) if isinstance(value, int) else float(wanted))
        except ValueError:
            return False
    return json.dumps(value, ensure_ascii=False) == wanted
