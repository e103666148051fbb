"""The ledger: every attempt before it is sent, every answer when it is in.

One SQLite file, ``DFILTER_HOME/ledger.sqlite``, in WAL mode with synchronous FULL: what was
committed survives a killed process and a lost power supply. An answer's key is a content hash of
what was asked (row, judge, repeat), so other runs, strategies, thresholds and grown datasets find
it again. A final answer is never replaced, unless somebody asked for that or its digest tells that it is not
what was written; a failed one gives way to the next.

An attempt that was begun and never ended was in flight when its process died. Nobody can know
whether it was billed; it counts as such at its worst case, and its row is asked again. What attempts
may cost is reserved in the transaction that notes them; see :mod:`dfilter.llm.accounts`.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfilter.digests import json_digest
from dfilter.errors import StoreError
from dfilter.llm import accounts
from dfilter.llm.accounts import Limits, Totals
from dfilter.llm.answers import BROKEN, CUT, FAILED, Reader, Reading, read_body
from dfilter.llm.batch_records import BatchRecords
from dfilter.llm.digest import COLUMNS, answer_digest, holds
from dfilter.llm.ledger_errors import damaged, sentences
from dfilter.llm.owners import this_process
from dfilter.llm.records import Attempt, Ending, Stored
from dfilter.llm.tables import FORMAT, FROM_1, TABLES
from dfilter.types import Json

OWN = "own question"  # the kind of an asker that asks for no row
BUSY_MS = 30_000  # how long another process may hold the file
LOOKUP = 500  # keys in one SELECT; SQLite's own limit is far above
ASKED = "EXISTS (SELECT 1 FROM asked_again WHERE asked_again.key = answer.key AND open)"  # see ``verdicts``
FINAL = f"status != '{FAILED}' AND NOT {ASKED}"

_ALL = ", ".join(COLUMNS)
_KEEP = (
    f"INSERT INTO answer ({_ALL}, digest) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"  # noqa: S608 - our names
    " ON CONFLICT (key) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in (*COLUMNS[1:], "digest"))
    + f" WHERE answer.status = '{FAILED}' OR (excluded.status != '{FAILED}' AND {ASKED})"
    + f" OR answer_digest({', '.join(f'answer.{column}' for column in COLUMNS)}) != answer.digest"
)


class Ledger(BatchRecords):
    """The file, opened for reading and writing; create one a thread.

    Attributes:
        damaged: answers met so far whose digest tells that they are not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with sentences(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(
                path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            self.db.text_factory = _text
            self.db.create_function("answer_digest", len(COLUMNS), answer_digest, deterministic=True)
            self._write_ahead()
            self.db.execute("PRAGMA synchronous = FULL")
            self.db.execute("PRAGMA secure_delete = ON")  # what was forgotten is not to be salvaged one day
            self._create()
        self._next = time.time_ns()  # attempt ids of two processes must not meet
        self.damaged = 0

    def _write_ahead(self) -> None:
        """Turn write-ahead logging on; SQLite itself does not wait for others who do the same just now."""
        deadline = time.monotonic() + BUSY_MS / 1000
        while True:
            try:
                self.db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _create(self) -> None:
        """Make the tables, or bring those of an older format to this one, in one transaction.

        Raises:
            StoreError: the file has a newer format.
            DamagedError: it is none of ours.
        """
        if self._version() < FORMAT:
            with self.group():
                version = self._version()  # another process may have been faster
                if not version and self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise damaged(self.path, "its format is not what was written")
                for statement in (FROM_1 if version else TABLES) if version < FORMAT else ():
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA user_version = {max(version, FORMAT)}")
        if (version := self._version()) != FORMAT:
            self.db.close()
            raise StoreError(
                f"The ledger {self.path} has format {version}, this version of dfilter reads {FORMAT}. "
                "Use the version that wrote it, or another DFILTER_HOME."
            )

    def _version(self) -> int:
        return int(self.db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        self.db.close()

    # -- writing: callers group these between begin_group and commit --------------------------

    def begin_group(self) -> None:
        """Open a transaction, waiting for other processes."""
        with sentences(self.path):
            self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since ``begin_group`` durable."""
        with sentences(self.path):
            self.db.execute("COMMIT")

    def rollback(self) -> None:
        """Forget everything since ``begin_group``."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def next_attempt(self) -> int:
        """Return an id for an attempt."""
        self._next += 1
        return self._next

    @contextmanager
    def group(self) -> Iterator[None]:
        """Make everything in the block one transaction."""
        self.begin_group()
        try:
            with sentences(self.path):
                yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    def begin(self, attempts: Sequence[Attempt], limits: Limits | None = None) -> list[Attempt]:
        """Note attempts that are about to be sent, and reserve what they may cost out of their one budget.

        Returns:
            Those that the limits refuse.
        """
        with sentences(self.path):
            return accounts.begin(self.db, attempts, limits or Limits())

    def end(self, endings: Sequence[Ending]) -> None:
        """Note how attempts ended, settle what was reserved for them, and keep the answers they brought."""
        now = time.time()
        with sentences(self.path):
            accounts.end(self.db, endings)
            self.db.executemany(_KEEP, [_columns(e.stored, e.asker, now) for e in endings if e.stored])
            self.db.executemany(
                "UPDATE asked_again SET open = 0 WHERE key = ? AND open",
                [(e.stored.key,) for e in endings if e.stored and e.stored.status != FAILED],
            )

    def open_budget(self, name: str | None) -> int:
        """Return the number of a budget, after what dead processes left in it has been taken in."""
        with self.group():
            number = accounts.budget_of(self.db, name)
            accounts.bury(self.db)
            accounts.recount(self.db, number)
        return number

    def open_owner(self) -> int:
        """Return this process's number, and renew its lease."""
        with self.group():
            return accounts.owner_of(self.db, this_process())

    def totals(self, budget: int) -> Totals:
        """Return what a budget has seen, over all processes and restarts."""
        with sentences(self.path):
            return accounts.totals_of(self.db, budget)

    def bury(self) -> int:
        """Take in what dead processes left in flight; returns how many attempts that were."""
        with self.group():
            return accounts.bury(self.db)

    # -- reading --------------------------------------------------------------------------

    def find(self, keys: Iterable[bytes], *, raw: bool = True) -> dict[bytes, Stored]:
        """Return the final answers to those of ``keys`` that have one.

        Failed ones are none, and neither are those that are to be asked again. One that is not what was
        written is none either: it is asked again, and then replaced.
        """
        found: dict[bytes, Stored] = {}
        columns = ", ".join("NULL" if column == "raw" and not raw else column for column in COLUMNS)
        for row in self._among(keys, f"SELECT {columns}, digest FROM answer WHERE {FINAL}"):  # noqa: S608 - our names
            if holds(row, whole=raw):
                found[row[0]] = stored_of(row)
            else:
                self.damaged += 1
        return found

    def elsewhere(self, keys: Iterable[bytes], owner: int) -> tuple[set[bytes], set[bytes]]:
        """Return those of ``keys`` that have an answer by now, and those that another process asks just now.

        Args:
            keys: of what is about to be asked.
            owner: the process that asks.
        """
        wanted = list(keys)
        open_ = "SELECT key FROM attempt WHERE owner != ? AND ended IS NULL"
        asked = {key for (key,) in self._among(wanted, open_, owner)}
        answered = {key for (key,) in self._among(wanted, f"SELECT key FROM answer WHERE {FINAL}")}  # noqa: S608
        return answered, asked - answered

    def failed(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of ``keys`` that failed in an earlier run and have no answer yet."""
        lost = f"(status = '{FAILED}' OR (status = '{BROKEN}' AND {ASKED}))"
        return {key for (key,) in self._among(keys, f"SELECT key FROM answer WHERE {lost}")}  # noqa: S608

    def _among(self, keys: Iterable[bytes], select: str, *values: Any) -> Iterator[Any]:
        """Yield the rows that a SELECT with a WHERE finds of ``keys``, however many these are."""
        wanted = list(keys)
        with sentences(self.path):
            for start in range(0, len(wanted), LOOKUP):
                part = wanted[start : start + LOOKUP]
                yield from self.db.execute(
                    f"{select} AND key IN ({','.join('?' * len(part))})", (*values, *part)
                )

    def open_attempts(self) -> int:
        """Return how many attempts were in flight when their process died (or are now)."""
        return int(self.db.execute("SELECT count(*) FROM attempt WHERE ended IS NULL").fetchone()[0])

    def count(self) -> dict[str, int]:
        """Return how many answers there are of each status."""
        return dict(self.db.execute("SELECT status, count(*) FROM answer GROUP BY status"))

    def spent(self) -> float:
        """Return the known cost of all attempts so far, in US dollars."""
        return float(self.db.execute("SELECT total(usd) FROM attempt").fetchone()[0])

    # -- who asked ------------------------------------------------------------------------

    def asker(self, name: str, spec: Mapping[str, Json]) -> int:
        """Return the number of an asker, noting it when it is new; opens its own transaction."""
        with sentences(self.path):
            text = json.dumps(spec, sort_keys=True)
            self.db.execute("INSERT OR IGNORE INTO asker (hash, spec) VALUES (?, ?)", (name, text))
            row = self.db.execute("SELECT id FROM asker WHERE hash = ?", (name,)).fetchone()
        return int(row[0])

    def asker_of_own(self, model: str, server: str) -> int:
        """Return the number under which questions of our own are asked: what a server can do, how it is."""
        spec: dict[str, Json] = {"kind": OWN, "model": model, "server": server}
        return self.asker(json_digest(spec), spec)

    def answered(self, name: str) -> bool:
        """Return whether an asker has an answer."""
        found = self.db.execute(
            "SELECT 1 FROM asker JOIN answer ON answer.asker = asker.id WHERE asker.hash = ? LIMIT 1", (name,)
        )
        return found.fetchone() is not None

    def askers(self) -> list[tuple[int, str, dict[str, Any], int]]:
        """Return (number, hash, spec, answers) of everybody who ever asked."""
        rows = self.db.execute(
            "SELECT asker.id, hash, spec, count(answer.id) FROM asker"
            " LEFT JOIN answer ON answer.asker = asker.id GROUP BY asker.id ORDER BY asker.id"
        )
        told = [(row[0], row[1], json.loads(row[2]), row[3]) for row in rows]
        return [one for one in told if one[2].get("kind") != OWN]

    def reread(
        self, asker: int, reader: Reader, *, write: bool = True
    ) -> list[tuple[bytes, Reading, Reading]]:
        """Read an asker's stored answers again, without asking anybody.

        Returns:
            What changed: (key, the reading before, the reading now).
        """
        changed: list[tuple[bytes, Reading, Reading]] = []
        updates = []
        with sentences(self.path):
            rows = self.db.execute(
                f"SELECT {_ALL}, digest FROM answer WHERE asker = ? AND raw IS NOT NULL"  # noqa: S608
                " AND status NOT IN (?, ?)",
                (asker, FAILED, CUT),
            )
            for row in rows:
                if not holds(row, whole=True):
                    continue
                held = stored_of(row)
                before = Reading(held.status, held.value, held.mass, held.reason)
                now = reader.read(read_body(held.raw or ""))
                updates.append(
                    (now.status, _null(now.value), _null(now.mass), now.reason, reader.name, held.key)
                )
                if not _same(before, now):
                    changed.append((held.key, before, now))
        if write:
            with self.group():
                self.db.executemany(
                    "UPDATE answer SET status = ?, value = ?, mass = ?, reason = ?, reader = ? WHERE key = ?",
                    updates,
                )
                self.db.executemany(
                    f"UPDATE answer SET digest = answer_digest({_ALL}) WHERE key = ?",  # noqa: S608
                    [update[-1:] for update in updates],
                )
        return changed

    # -- what servers can do ------------------------------------------------------

    def capability(self, server: str, model: str) -> dict[str, Any] | None:
        """Return what a model on a server was seen to accept, or None when it was never tried."""
        row = self.db.execute(
            "SELECT found FROM capability WHERE server = ? AND model = ?", (server, model)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def keep_capability(self, server: str, model: str, found: Mapping[str, Json]) -> None:
        """Note what a model on a server was seen to accept."""
        with sentences(self.path):
            self.db.execute(
                "INSERT OR REPLACE INTO capability VALUES (?, ?, ?, ?)",
                (server, model, json.dumps(found, sort_keys=True), time.time()),
            )

    def check(self) -> str:
        """Return SQLite's own verdict on the file: ``ok``, or what is broken."""
        return str(self.db.execute("PRAGMA integrity_check").fetchone()[0])


def _columns(stored: Stored, asker: int | None, now: float) -> tuple[Any, ...]:
    s = stored
    values = (
        s.key, asker, s.status, _null(s.value), _null(s.mass), s.reason, s.reader, s.raw, s.model,
        s.input_tokens, s.output_tokens, s.usd, _null(s.latency), now,
    )  # fmt: skip
    return (*values, answer_digest(*values))


def stored_of(row: Sequence[Any]) -> Stored:
    """Return an answer of the table's columns, as :data:`dfilter.llm.digest.COLUMNS` orders them."""
    key, _, status, value, mass, reason, reader, raw, model, asked, said, usd, latency, *_ = row
    numbers = _float(value), _float(mass)
    return Stored(key, status, *numbers, reason, reader, raw, model, asked, said, usd, _float(latency))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")  # a damaged text does not hold, and is no reason to stop


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _same(a: Reading, b: Reading) -> bool:
    return a.status == b.status and _null(a.value) == _null(b.value)


__all__ = ["Attempt", "Ending", "Ledger", "Stored"]
