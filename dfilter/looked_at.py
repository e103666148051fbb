"""Which turns of a conversation a filter looks at.

    all    all turns that are to be learnt, pooled as one text: what a training takes its loss over
    last   the last of them, behind all that stands before it
    mean   each of them behind all that stands before it; the row's value is the mean of their values
    min    likewise; the row's value is the lowest one

A filter looks at rows, and at a row's ``prompt`` and ``response``. So it is given rows in which the response
is what shall be looked at, and their values become those of the rows that they were made of. A row with one
turn to be learnt, at its end, is given as it is, whatever the setting, with all that is stored about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from dfilter.data.dataset import Dataset
from dfilter.errors import SettingsError
from dfilter.types import KEY_BYTES, Example, Scores
from dfilter.view import Views as Seen

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from dfilter.pool import Pool

Turns: TypeAlias = Literal["all", "last", "mean", "min"]
WHOLE, POOLED = -1, -2  # in place of a turn's place: the row as it is, and with its turns pooled


def refuse_unknown(turns: str) -> None:
    """Refuse a setting that is none.

    Raises:
        SettingsError: it is unknown.
    """
    if turns not in get_args(Turns):
        raise SettingsError(f"turns = '{turns}' is unknown. Known: {', '.join(get_args(Turns))}.")


def over_turns(pool: Pool, turns: Turns, score: Callable[[Pool], Scores]) -> Scores:
    """Return what a filter says about a pool's rows, looking at these turns of them.

    A row of which a turn has no value has none.

    Args:
        pool: the rows.
        turns: see the module.
        score: the filter; it scores the response of each row that it is given.
    """
    views = Views.of(pool.rows, turns)
    if views is None:
        return score(pool)
    told = {"turns": turns, "rows_of_several_turns": views.several}
    looked_at = replace(pool, rows=views.rows, wanted=min(pool.wanted, len(views.rows)))
    if views.starts is None:
        given = score(looked_at)
        return replace(given, facts=dict(given.facts) | told)
    looked_at = replace(looked_at, prior=None, views=Seen())
    given = score(looked_at)
    pool.views.add_turns(looked_at.views, views.starts)
    facts = dict(given.facts) | told
    return replace(_gathered(given, turns, views.starts), facts=facts)


def pooled(rows: Dataset) -> Dataset:
    """Return rows of which the response is all that is to be learnt."""
    views = Views.of(rows, "all")
    return rows if views is None else views.rows


@dataclass(frozen=True)
class Views:
    """Rows as a filter is given them.

    Attributes:
        rows: what is looked at.
        several: how many of the rows that they were made of have several turns to be learnt.
        starts: (n,) where each row's begin, or none where there is one for each.
    """

    rows: Dataset
    several: int
    starts: NDArray[np.int64] | None = None

    @staticmethod
    def of(rows: Dataset, turns: Turns) -> Views | None:
        """Return what is looked at of the rows; none where that is what every row ends with."""
        import pyarrow as pa

        refuse_unknown(turns)
        counts, following = rows.learnt.T
        several = int((counts > 1).sum())
        if turns == "all" and (several or following.any()):
            places = np.where((counts > 1) | (following > 0), POOLED, WHOLE)
            return Views(_viewed(rows, np.arange(len(rows)), places, rows.ids.arrow), several)
        if turns in {"all", "last"} or not several:
            return Views(rows, several) if several else None
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        owners = np.repeat(np.arange(len(rows)), counts)
        places = np.arange(len(owners)) - starts[owners]
        last = places == counts[owners] - 1  # the row as it is has its last turn for a response
        named = zip(owners.tolist(), places.tolist(), (counts[owners] > 1).tolist(), strict=True)
        ids = list(rows.ids)
        names = [f"{ids[at]}, reply {place + 1}" if more else ids[at] for at, place, more in named]
        unique = pa.chunked_array([pa.array(names, pa.large_string())])
        return Views(_viewed(rows, owners, np.where(last, WHOLE, places), unique), several, starts)


def view(row: Example, place: int) -> Example:
    """Return a row with what is looked at as its response: :data:`POOLED`, or the reply of this number."""
    if place == WHOLE:
        return row
    if place == POOLED:
        return replace(row, pooled=True)
    return replace(row, messages=row.messages[: row.learnt[place] + 1])


def _viewed(
    rows: Dataset, owners: NDArray[np.int64], places: NDArray[np.int64], ids: pa.ChunkedArray
) -> Dataset:
    """Return the dataset of views of rows: whose, which, and under which ids."""
    held = _ViewRows(rows, owners, places)
    keys, lengths = rows.keys[owners], rows.lengths[owners]
    changed = np.flatnonzero(places != WHOLE)
    for at, row in zip(changed.tolist(), held.some(changed), strict=True):
        keys[at] = np.frombuffer(row.key, np.uint8, KEY_BYTES)
        lengths[at] = len(row.text)
    return Dataset(held, ids, keys, lengths, rows.source, rows.rejected)


class _ViewRows:
    """Rows made of a dataset's when they are looked at; see :class:`dfilter.data.rows.Rows`."""

    def __init__(self, rows: Dataset, owners: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self._rows, self._owners, self._places = rows, owners, places
        self.columns = rows.columns

    def __len__(self) -> int:
        return len(self._owners)

    def some(self, indices: NDArray[np.int64]) -> Iterator[Example]:
        """Yield the rows at these places, each of the dataset's made once where they follow each other."""
        owner, row = -1, None
        for index in indices.tolist():
            if row is None or owner != self._owners[index]:
                owner = int(self._owners[index])
                row = self._rows[owner]
            yield view(row, int(self._places[index]))

    def example(self, index: int, row_id: str) -> Example:
        made = view(self._rows[int(self._owners[index])], int(self._places[index]))
        return replace(made, id=row_id)

    def stream(self, ids: Sequence[str]) -> Iterator[Example]:
        whole = iter(self._rows)
        owner, row = -1, None
        for index, row_id in enumerate(ids):
            while row is None or owner != self._owners[index]:
                owner, row = owner + 1, next(whole)
            yield replace(view(row, int(self._places[index])), id=row_id)

    def fields(self, index: int) -> dict[str, Any]:
        return self._rows.fields(int(self._owners[index]))

    def line(self, index: int) -> str:
        import json

        return json.dumps(self.fields(index), ensure_ascii=False)

    def values(self, column: str) -> Iterator[Any]:
        held = self._rows.column(column)
        return (held[owner] for owner in self._owners.tolist())

    def typed(self, indices: Sequence[int]) -> pa.Table | None:
        del indices
        return None


def _gathered(given: Scores, turns: Turns, starts: NDArray[np.int64]) -> Scores:
    """Return one value a row out of those of its turns; NaN of a turn is NaN of the row."""
    values = np.asarray(given.values, np.float64)
    counts = np.diff([*starts, len(values)])
    lowest = np.minimum.reduceat(values, starts)
    found = lowest if turns == "min" else np.add.reduceat(values, starts) / counts
    reasons = None
    if given.reasons is not None:
        reasons = [
            given.reasons[start] if count == 1 else _reason(given.reasons, values, start, count, turns)
            for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
        ]
    groups = None if given.groups is None else np.asarray(given.groups)[starts]
    return Scores(found, groups=groups, reasons=reasons)


def _reason(reasons: Sequence[str], values: NDArray[np.float64], start: int, count: int, turns: Turns) -> str:
    """Return the reason of the turn that decides: one without a value, or the lowest."""
    part = values[start : start + count]
    at = int(np.argmax(np.isnan(part)) if np.isnan(part).any() else np.argmin(part))
    if np.isnan(part[at]):
        return reasons[start + at]
    which = "the lowest" if turns == "min" else f"mean {part.mean():.4g}, the lowest"
    return f"{count} replies: {which} is number {at + 1}, {reasons[start + at]}"
