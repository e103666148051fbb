"""Ratings made elsewhere, taken into the ledger under the name of a judge that is never asked.

A file has a rating a row, and says whose it is: by the row's texts, by an id in a data file, or by the key of
the row's content, as ``dfilter judge export`` writes it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dfilter.data.dataset import Dataset
from dfilter.digests import json_digest
from dfilter.errors import DFilterError, InputError, SettingsError, suggest
from dfilter.llm.answers import OK, Reader, Reading, Reply
from dfilter.llm.imported import AS_IMPORTED
from dfilter.llm.judge import imported_spec, rating_key
from dfilter.llm.ledger import Ending, Ledger, Stored
from dfilter.llm.log_rows import log_rows
from dfilter.llm.server import IMPORTED
from dfilter.llm.session import ledger_path
from dfilter.types import KEY_BYTES

if TYPE_CHECKING:
    from dfilter.types import Progress

By: TypeAlias = Literal["auto", "row", "content", "id"]
Row: TypeAlias = Mapping[str, Any]
ROLES: Mapping[str, tuple[str, ...]] = {  # what a column may be, and its names unless somebody gives one
    "score": ("score", "rating", "value"),
    "reply": (),
    "id": ("id",),
    "row": ("row",),
    "repeat": ("repeat",),
    "model": ("model",),
}
NAMED = 20  # places of one kind of bad row that are named
CHUNK = 1000


@dataclass(frozen=True)
class Import:
    """What is imported, and how it is understood.

    Attributes:
        file: see :func:`dfilter.llm.log_rows.log_rows`.
        judge: the name that the judge gets.
        reader: reads replies where no score is given.
        low: the scale's lowest rating.
        high: its highest.
        mapping: role to column; roles are those of ``ROLES`` and the fields of a row's shape.
        by: how rows are found; ``auto`` takes keys where there are some, else texts, else ids.
        format: the shape of the rows' texts.
        data: the rows that ids mean, and that texts must be among.
        csv: how the fields of CSV are told apart.
        on_bad_rows: ``auto`` refuses a file of which more than half cannot be used, ``keep-going`` takes what
            there is, ``stop`` refuses the first bad row.
    """

    file: Path
    judge: str
    reader: Reader
    low: int = 0
    high: int = 5
    mapping: Mapping[str, str] = field(default_factory=dict)
    by: By = "auto"
    format: str = "auto"
    data: Dataset | None = None
    csv: str = ""
    on_bad_rows: str = "auto"

    def column(self, role: str, row: Row) -> str:
        """Return a row's column of a role, or nothing."""
        if role in self.mapping:
            return self.mapping[role] if self.mapping[role] in row else ""
        return next((name for name in ROLES[role] if name in row), "")


@dataclass
class Taken:
    """What became of a file's rows.

    Attributes:
        model: what the judge is called in strategies.
        new: ratings that the ledger did not hold.
        known: those that it held, or that were said twice.
        bad: by reason the places of rows that were not taken.
    """

    model: str
    new: int = 0
    known: int = 0
    bad: dict[str, list[str]] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """How many rows were not taken."""
        return sum(map(len, self.bad.values()))

    def lines(self) -> list[str]:
        """Return it as a person reads it."""
        counts = f"{self.new:,} new ratings, {self.known:,} known already, {self.lost:,} rows not taken"
        out = [f"{self.model}: {counts}"]
        for why, places in self.bad.items():
            more = ", ..." if len(places) > NAMED else ""
            rows = "1 row" if len(places) == 1 else f"{len(places):,} rows"
            out.append(f"  {rows}: {why} ({', '.join(places[:NAMED])}{more})")
        return out

    def refuse(self, why: str, place: str, asked: Import) -> None:
        """Note a row that is not taken.

        Raises:
            InputError: no bad row is to be passed over.
        """
        self.bad.setdefault(why, []).append(place)
        if asked.on_bad_rows == "stop":
            raise InputError(f"{asked.file}, {place}: {why}.")


class BadRowError(ValueError):
    """A row that is not taken; the message says why."""


def import_ratings(
    asked: Import, *, write: bool = True, ledger: Path | None = None, progress: Progress | None = None
) -> Taken:
    """Take a file's ratings into the ledger, all of them or none.

    Args:
        asked: which, and how.
        write: keep them; without, only say what would be taken.
        ledger: the ledger's file.
        progress: shows how far it is.

    Raises:
        InputError: the file cannot be read, or too many of its rows cannot be used.
        SettingsError: the judge has no name, or nothing says whose the ratings are.
    """
    name = asked.judge.removeprefix(IMPORTED).strip()
    if not name or "," in name:
        raise SettingsError(f"--judge '{asked.judge}' is no name of one judge; give one, such as chatgpt.")
    spec = imported_spec(IMPORTED + name, asked.low, asked.high)
    taken = Taken(IMPORTED + name)
    found = _understood(asked, json_digest(spec), taken)
    book = Ledger(ledger or ledger_path())
    try:
        _compare(book, found, taken, asked)
        read = taken.new + taken.known + taken.lost
        if taken.lost * 2 > read and asked.on_bad_rows != "keep-going":
            raise InputError(
                f"{asked.file}: {taken.lost:,} of {read:,} rows cannot be used, and nothing was taken.\n"
                + "\n".join(taken.lines()[1:])
                + "\nCheck --map, --scale and --by, or take the others with --on-bad-rows keep-going."
            )
        if write:
            ratings = [stored for _, stored in found.values()]
            _keep(book, book.asker(json_digest(spec), spec), ratings, progress)
    finally:
        book.close()
    return taken


def _understood(asked: Import, judge: str, taken: Taken) -> dict[bytes, tuple[str, Stored]]:
    """Return the ratings of a file, and where each stands, by their keys; note what is no rating."""
    listed: list[tuple[str, Row]] = []
    own = asked.mapping.get("score") or ROLES["score"][0]
    for place, row in log_rows(asked.file, (own, *ROLES["score"]), asked.csv):
        if isinstance(row, str):
            taken.refuse(row, place, asked)
        else:
            listed.append((place, row))
    if not listed and not taken.lost:
        raise InputError(f"{asked.file} holds no rows.")
    _refuse_unknown(asked, [row for _, row in listed])
    found: dict[bytes, tuple[str, Stored]] = {}
    for (place, row), content in zip(listed, _contents(asked, [row for _, row in listed]), strict=True):
        try:
            stored = _stored(asked, row, content, judge)
            _refuse_second(stored, found)
        except BadRowError as error:
            taken.refuse(str(error), place, asked)
        else:
            taken.known += stored.key in found
            found.setdefault(stored.key, (place, stored))
    return found


def _refuse_second(stored: Stored, found: Mapping[bytes, tuple[str, Stored]]) -> None:
    if stored.key in found and found[stored.key][1].value != stored.value:
        raise BadRowError("another rating of the same row stands before it")


def _refuse_unknown(asked: Import, rows: Sequence[Row]) -> None:
    """Refuse a column that no row has."""
    named = {role: column for role, column in asked.mapping.items() if role in ROLES}
    absent = [column for column in named.values() if not any(column in row for row in rows)]
    if rows and absent:
        raise SettingsError(
            *[f"No row has a column '{name}'. {suggest(name, list(rows[0]))}" for name in absent]
        )


def _compare(book: Ledger, found: dict[bytes, tuple[str, Stored]], taken: Taken, asked: Import) -> None:
    """Leave out what the ledger holds already."""
    held = book.find(found, raw=False)
    for key, before in held.items():
        place, stored = found.pop(key)
        if before.value == stored.value:
            taken.known += 1
        else:
            taken.refuse(
                "the ledger holds another rating; dfilter judge forget makes room for this", place, asked
            )
    taken.new = len(found)


def _keep(book: Ledger, asker: int, ratings: Sequence[Stored], progress: Progress | None) -> None:
    from dfilter.progress import Silent

    now = time.time()
    book.begin_group()
    try:
        with (progress or Silent()).stage("importing", total=len(ratings), unit="ratings") as bar:
            for start in range(0, len(ratings), CHUNK):
                part = ratings[start : start + CHUNK]
                book.end([Ending(0, None, "imported", None, stored, asker) for stored in part])
                book.db.executemany(  # finished runs know by it that there is more than they saw
                    "INSERT OR REPLACE INTO asked_again (key, asker, since, open) VALUES (?, ?, ?, 0)",
                    [(stored.key, asker, now) for stored in part],
                )
                bar.advance(len(part))
        book.commit()
    except BaseException:
        book.rollback()
        raise


def _contents(asked: Import, rows: Sequence[Row]) -> list[bytes | str]:
    """Return the key of each row's content, or why there is none."""
    by = asked.by
    if by == "row" or (by == "auto" and any(asked.column("row", row) for row in rows)):
        return [_hex(row.get(asked.column("row", row))) for row in rows]
    if by in {"auto", "content"}:
        try:
            return _by_texts(asked, rows)
        except DFilterError as error:
            if by == "content" or not any(asked.column("id", row) for row in rows):
                raise InputError(
                    f"{asked.file} does not say whose its ratings are: {error} Name its columns with --map "
                    "(instruction=..., response=..., or id=... with --data FILE)."
                ) from error
    if asked.data is None:
        raise SettingsError(f"{asked.file} has ids; name the rows that they mean with --data FILE.")
    keys = {name: key.tobytes() for name, key in zip(asked.data.ids, asked.data.keys, strict=True)}
    named = [str(row.get(asked.column("id", row))) for row in rows]
    return [keys.get(name, "the data has no row of this id") for name in named]


def _by_texts(asked: Import, rows: Sequence[Row]) -> list[bytes | str]:
    """Return the keys of rows that are given by their texts."""
    own = {column for row in rows[:CHUNK] for role in ROLES if (column := asked.column(role, row))}
    texts = [{name: value for name, value in row.items() if name not in own} for row in rows]
    fields = {role: column for role, column in asked.mapping.items() if role not in ROLES}
    made = Dataset.from_rows(texts, asked.format, fields or None, "keep-going")
    why = {rejection.line - 1: rejection.reason for rejection in made.rejected}
    keys = iter(made.keys)
    out: list[bytes | str] = [why[at] if at in why else next(keys).tobytes() for at in range(len(rows))]
    if asked.data is None:
        return out
    there = {key.tobytes() for key in asked.data.keys}
    return [key if isinstance(key, str) or key in there else "the data has no such row" for key in out]


def _hex(text: object) -> bytes | str:
    try:
        key = bytes.fromhex(str(text))
    except ValueError:
        key = b""
    return key if len(key) == KEY_BYTES else "no key of a row's content"


def _stored(asked: Import, row: Row, content: bytes | str, judge: str) -> Stored:
    if isinstance(content, str):  # why there is no key
        raise BadRowError(content)
    model = str(row.get(asked.column("model", row)) or "")
    repeat = str(row.get(asked.column("repeat", row)) or 0)
    number = int(repeat) if repeat.isdecimal() else 0
    reply = row.get(asked.column("reply", row))
    said = reply if isinstance(reply, str) else None
    value = _value(asked, row.get(asked.column("score", row)), said)
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    body = None if said is None else json.dumps({"model": model, "choices": [choice]})
    key = rating_key(content, judge, number)
    return Stored(key, OK, value, math.nan, "", AS_IMPORTED.name, body, model, None, None, None, math.nan)


def _value(asked: Import, score: object, reply: str | None) -> float:
    """Return a rating: the score, else what is read of the reply.

    Raises:
        BadRowError: there is none.
    """
    if score is None or score == "":
        if reply is None:
            raise BadRowError("no score")
        read: Reading = asked.reader.read(Reply(reply, finish="stop"))
        if read.status != OK:
            raise BadRowError(f"no score can be read in the reply ({read.reason or read.status})")
        return read.value
    try:
        value = math.nan if isinstance(score, bool) else float(str(score))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRowError("its score is no number")
    if not asked.low <= value <= asked.high:
        raise BadRowError(f"its score is outside {asked.low} to {asked.high}")
    return value
