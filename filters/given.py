"""Given: a selection made elsewhere, so that it can take part in a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.errors import DFilterError, InputError, SettingsError
from dfilter.identity import CONTENT
from dfilter.types import Scores

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset
    from dfilter.pool import Pool


@dataclass(frozen=True)
class Given:
    """Rows that were chosen elsewhere, in their order.

    Attributes:
        file: a JSON array, JSON lines, or one id a line. Each entry is an id (or, as a number, a row
            number counted from 0 among the rows as read), or a row, which is found by its content.
        ids: ids named right here.
        by: whether plain entries are ids or row numbers; ``auto`` takes numbers for row numbers
            where the data brought ids of its own and they do not fit, and for ids else.
        missing: ``report`` says how many entries no row answers to; ``stop`` refuses.
    """

    file: Annotated[str, CONTENT] = ""
    ids: tuple[str, ...] = ()
    by: Literal["auto", "id", "row"] = "auto"
    missing: Literal["report", "stop"] = "report"

    paper: ClassVar[str] = ""
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "a file of ids or rows"

    def score(self, pool: Pool) -> Scores:
        """Return minus the place in the given order; NaN for rows that are not given.

        Raises:
            SettingsError: neither a file nor ids are given.
            InputError: the file cannot be read, or entries are missing and must not be.
        """
        entries = [*self.ids, *(_entries(Path(self.file)) if self.file else ())]
        if not entries:
            raise SettingsError(
                "The filter 'given' has no entries: name a file of ids or rows with --set filter.file=FILE."
            )
        places, lost = self._places(entries, pool.rows)
        if lost:
            found = (
                f"{len(lost)} of {len(entries)} given entries are not among the rows, for instance {lost[0]}."
            )
            if self.missing == "stop":
                raise InputError(f"{found} Check that the selection was made from this data.")
            pool.progress.say(found)
        values = np.full(len(pool.rows), np.nan)
        for rank, place in enumerate(places):
            if np.isnan(values[place]):
                values[place] = -rank
        reasons = ["not given" if np.isnan(value) else "given" for value in values]
        return Scores(values, reasons=reasons, facts={"given": len(entries), "missing": len(lost)})

    def _places(self, entries: Sequence[Any], rows: Dataset) -> tuple[list[int], list[str]]:
        found: list[int] = []
        lost: list[str] = []
        plain = [entry for entry in entries if not isinstance(entry, Mapping)]
        names = self._names(plain, rows)
        contents = _by_content([entry for entry in entries if isinstance(entry, Mapping)], rows)
        for entry in entries:
            place = next(contents) if isinstance(entry, Mapping) else names.get(str(entry))
            if place is None:
                lost.append(json.dumps(entry, ensure_ascii=False)[:80])
            else:
                found.append(place)
        return found, lost

    def _names(self, plain: Sequence[Any], rows: Dataset) -> dict[str, int]:
        """What plain entries refer to: ids, or positions among all rows that were read."""
        by_id = {name: place for place, name in enumerate(rows.ids)}
        if self.by == "id":
            return by_id
        numbers = bool(plain) and all(isinstance(entry, int) for entry in plain)
        if self.by == "auto" and (not numbers or any(str(entry) in by_id for entry in plain)):
            return by_id
        if rows.source.rejected:
            raise InputError(
                f"Row numbers are given, but {rows.source.rejected} rows of {rows.source.path} were rejected"
                " and the numbers may count them or not; give ids or whole rows."
            )
        return {str(number): place for place, number in enumerate(rows.indices.tolist())}


def _by_content(wanted: Sequence[Mapping[str, Any]], rows: Dataset) -> Iterator[int | None]:
    """Yield the place of the row that says the same; an entry of nothing but an id goes by that."""
    keys: dict[bytes, list[int]] = {}
    for place, key in enumerate(rows.keys):
        keys.setdefault(key.tobytes(), []).append(place)
    by_id = {name: place for place, name in enumerate(rows.ids)} if any("id" in w for w in wanted) else {}
    for entry, key in zip(wanted, _keys(wanted, rows), strict=True):
        own = by_id.get(str(entry.get("id")))
        same = keys.get(key, []) if key else []
        if set(entry) == {"id"} or own in same:
            yield own
        else:  # identical rows are given one after the other
            yield same.pop(0) if len(same) > 1 else next(iter(same), None)


def _keys(wanted: Sequence[Mapping[str, Any]], rows: Dataset) -> list[bytes | None]:
    """The content keys of rows in the data's own shape, else in whichever they have; none for no row."""
    from dfilter.data.dataset import Dataset as Rows
    from dfilter.data.shapes import FIELDS, Shape

    own = Shape(rows.source.shape, dict(rows.source.columns)) if rows.source.shape in FIELDS else None

    def key(entry: Mapping[str, Any]) -> bytes | None:
        for shape in (own, None):
            try:
                made = (
                    Rows.from_rows([entry], shape.name, shape.columns) if shape else Rows.from_rows([entry])
                )
            except DFilterError:
                continue
            return bytes(made.keys[0])
        return None

    return [key(entry) for entry in wanted]


def _entries(path: Path) -> list[Any]:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The selection {path} cannot be read: {error}.") from error
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except ValueError as error:
            raise InputError(
                f"The selection {path} begins like a JSON array but is none: {error}."
            ) from error
    return [_entry(line) for line in text.splitlines() if line.strip()]


def _entry(line: str) -> Any:
    """One line: a JSON row, a JSON string or number, or a bare id."""
    try:
        value = json.loads(line)
    except ValueError:
        return line.strip()
    return value if isinstance(value, Mapping | str | int) else line.strip()
