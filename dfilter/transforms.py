"""Transforms make a new dataset before the pool; rows keep their ids, what drops out its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dfilter import registry
from dfilter.data.dataset import Dataset
from dfilter.data.rejects import Rejection, Rejections, excerpt
from dfilter.errors import InputError
from dfilter.settings import merged, parse_assignment
from dfilter.types import Progress, Transform


def transformed(rows: Dataset, transforms: Sequence[Transform], progress: Progress) -> Dataset:
    """Return the rows as the transforms leave them.

    A row that a transform drops joins the rejected ones, with its position and the reason.

    Raises:
        InputError: nothing is left.
    """
    if not transforms:
        return rows
    left, dropped = [], []
    with progress.stage("transforming", total=len(rows)) as bar:
        for number, row in enumerate(rows, 1):
            made, why = row, ""
            for transform in transforms:
                changed, why = transform.apply(made)
                if changed is None:
                    reason = f"row '{row.id}' was dropped by {type(transform).__name__}: {why}"
                    dropped.append(Rejection(number, reason, excerpt(row.text)))
                    break
                made = changed
            else:
                left.append(made)
            bar.advance(1)
    if not left:
        raise InputError(f"No row is left after {', '.join(type(t).__name__ for t in transforms)}.")
    result = Dataset.from_rows(left)
    everything = [*rows.rejected, *dropped]
    result.rejected = Rejections(len(everything), held=everything)
    result.source = replace(rows.source, rejected=len(everything))
    return result


def built(names: Sequence[str], assignments: Sequence[str]) -> tuple[list[Transform], list[str]]:
    """Make transforms of their names and of the assignments that address them.

    Returns:
        The transforms, and the assignments that are left for the strategy's steps.
    """
    registry.allow_code(*registry.code_in(list(names)))
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    left = []
    for text in assignments:
        path, value = parse_assignment(text)
        if path[0] in settings and len(path) > 1:
            registry.allow_code(*registry.code_in(value))
            settings[path[0]] = merged(settings[path[0]], path[1:], value)
        else:
            left.append(text)
    return [registry.create("transforms", name, settings[name]) for name in names], left


def from_tables(tables: Sequence[Mapping[str, Any]]) -> list[Transform]:
    """Make the transforms that a run recorded; code among them must have been allowed."""
    return [registry.create("transforms", t["name"], t.get("settings", {})) for t in tables]
