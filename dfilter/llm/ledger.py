"""The ledger: every attempt before it is sent, every answer when it is in.

One SQLite file, ``DFILTER_HOME/ledger.sqlite``, in WAL mode with synchronous FULL: what was
committed survives a killed process and a lost power supply. An answer's key is a content hash of
what was asked (row, judge, repeat), so other runs, strategies, thresholds and grown datasets find
it again. A final answer is never replaced unless somebody asked for that; a failed one gives way to the next.

An attempt that was begun and never ended was in flight when its process died. Nobody can know
whether it was billed; it counts as such, and its row is asked again.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfilter.errors import StoreError
from dfilter.llm.answers import BROKEN, CUT, FAILED, Reader, Reading, read_body
from dfilter.llm.tables import ASKED_AGAIN, TABLES
from dfilter.types import Json

FORMAT = 1
BUSY_MS = 30_000  # how long another process may hold the file
LOOKUP = 500  # keys in one SELECT; SQLite's own limit is far above
ASKED = "EXISTS (SELECT 1 FROM asked_again WHERE asked_again.key = answer.key AND open)"  # see ``verdicts``


@dataclass(frozen=True, slots=True)
class Stored:
    """One answer as the ledger keeps it; the fields are those of :class:`answers.Answer`."""

    key: bytes
    status: str
    value: float
    mass: float
    reason: str
    reader: str
    raw: str | None
    model: str
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None
    latency: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, and the answer that it brought, if it brought one."""

    attempt: int
    http: int | None
    outcome: str
    usd: float | None
    stored: Stored | None = None
    asker: int | None = None


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"The ledger {path} cannot be used: {error}. Check that its disk has room and that no other "
            "program holds it; nothing that was committed is lost."
        ) from error


class Ledger:
    """The file, opened for reading and writing; create one a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _sentences(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(
                path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            self._write_ahead()
            self.db.execute("PRAGMA synchronous = FULL")
            self._create()
        self._next = time.time_ns()  # attempt ids of two processes must not meet

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
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self.db.execute("BEGIN IMMEDIATE")
            if not self.db.execute("PRAGMA user_version").fetchone()[0]:
                for statement in TABLES.split(";\n"):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA user_version = {FORMAT}")
            self.db.execute("COMMIT")
        elif version != FORMAT:
            self.db.close()
            raise StoreError(
                f"The ledger {self.path} has format {version}, this version of dfilter reads {FORMAT}. "
                "Use the version that wrote it, or another DFILTER_HOME."
            )
        self.db.execute(ASKED_AGAIN)

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        self.db.close()

    # -- writing: callers group these between begin_group and commit --------------------------

    def begin_group(self) -> None:
        """Open a transaction, waiting for other processes."""
        with _sentences(self.path):
            self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since ``begin_group`` durable."""
        with _sentences(self.path):
            self.db.execute("COMMIT")

    def rollback(self) -> None:
        """Forget everything since ``begin_group``."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def next_attempt(self) -> int:
        """Return an id for an attempt."""
        self._next += 1
        return self._next

    def begin(self, attempts: Sequence[tuple[int, bytes, float]]) -> None:
        """Note attempts (id, key, seconds since 1970) that are about to be sent."""
        with _sentences(self.path):
            self.db.executemany("INSERT INTO attempt (id, key, started) VALUES (?, ?, ?)", attempts)

    def end(self, endings: Sequence[Ending]) -> None:
        """Note how attempts ended and keep the answers they brought."""
        now = time.time()
        with _sentences(self.path):
            self.db.executemany(
                "UPDATE attempt SET ended = ?, http = ?, outcome = ?, usd = ? WHERE id = ?",
                [(now, e.http, e.outcome, e.usd, e.attempt) for e in endings],
            )
            self.db.executemany(
                "INSERT INTO answer (key, asker, status, value, mass, reason, reader, raw,"
                " model, input_tokens, output_tokens, usd, latency, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET asker = excluded.asker, status = excluded.status,"
                " value = excluded.value, mass = excluded.mass, reason = excluded.reason,"
                " reader = excluded.reader, raw = excluded.raw, model = excluded.model,"
                " input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,"
                " usd = excluded.usd, latency = excluded.latency, created = excluded.created"
                " WHERE answer.status = 'failed' OR (excluded.status != 'failed' AND"
                " EXISTS (SELECT 1 FROM asked_again WHERE asked_again.key = excluded.key AND open))",
                [_columns(e.stored, e.asker, now) for e in endings if e.stored],
            )
            self.db.executemany(
                "UPDATE asked_again SET open = 0 WHERE key = ? AND open",
                [(e.stored.key,) for e in endings if e.stored and e.stored.status != FAILED],
            )

    # -- reading --------------------------------------------------------------------------

    def find(self, keys: Iterable[bytes], *, raw: bool = True) -> dict[bytes, Stored]:
        """Return the final answers to those of ``keys`` that have one.

        Failed ones are none, and neither are those that are to be asked again.
        """
        wanted = list(keys)
        found: dict[bytes, Stored] = {}
        body = "raw" if raw else "NULL"
        with _sentences(self.path):
            for start in range(0, len(wanted), LOOKUP):
                part = wanted[start : start + LOOKUP]
                marks = ",".join("?" * len(part))
                for row in self.db.execute(
                    f"SELECT key, status, value, mass, reason, reader, {body}, model, input_tokens,"  # noqa: S608
                    f" output_tokens, usd, latency FROM answer WHERE key IN ({marks})"
                    f" AND status != '{FAILED}' AND NOT {ASKED}",
                    part,
                ):
                    found[row[0]] = _stored(row)
        return found

    def failed(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of ``keys`` that failed in an earlier run and have no answer yet."""
        wanted = list(keys)
        found: set[bytes] = set()
        with _sentences(self.path):
            for start in range(0, len(wanted), LOOKUP):
                part = wanted[start : start + LOOKUP]
                marks = ",".join("?" * len(part))
                text = f"SELECT key FROM answer WHERE key IN ({marks}) AND (status = '{FAILED}'"  # noqa: S608
                text += f" OR (status = '{BROKEN}' AND {ASKED}))"
                found |= {row[0] for row in self.db.execute(text, part)}
        return found

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
        with _sentences(self.path):
            text = json.dumps(spec, sort_keys=True)
            self.db.execute("INSERT OR IGNORE INTO asker (hash, spec) VALUES (?, ?)", (name, text))
            row = self.db.execute("SELECT id FROM asker WHERE hash = ?", (name,)).fetchone()
        return int(row[0])

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
        return [(row[0], row[1], json.loads(row[2]), row[3]) for row in rows]

    def reread(
        self, asker: int, reader: Reader, *, write: bool = True
    ) -> list[tuple[bytes, Reading, Reading]]:
        """Read an asker's stored answers again, without asking anybody.

        Returns:
            What changed: (key, the reading before, the reading now).
        """
        changed: list[tuple[bytes, Reading, Reading]] = []
        updates = []
        with _sentences(self.path):
            rows = self.db.execute(
                "SELECT id, key, status, value, mass, reason, raw FROM answer"
                " WHERE asker = ? AND raw IS NOT NULL AND status NOT IN (?, ?)",
                (asker, FAILED, CUT),
            )
            for row in rows:
                before = Reading(row[2], _float(row[3]), _float(row[4]), row[5])
                now = reader.read(read_body(row[6]))
                updates.append(
                    (now.status, _null(now.value), _null(now.mass), now.reason, reader.name, row[0])
                )
                if not _same(before, now):
                    changed.append((row[1], before, now))
            if write:
                self.begin_group()
                self.db.executemany(
                    "UPDATE answer SET status = ?, value = ?, mass = ?, reason = ?, reader = ? WHERE id = ?",
                    updates,
                )
                self.commit()
        return changed

    # -- what servers can do, and batches ------------------------------------------------------

    def capability(self, server: str, model: str) -> dict[str, Any] | None:
        """Return what a model on a server was seen to accept, or None when it was never tried."""
        row = self.db.execute(
            "SELECT found FROM capability WHERE server = ? AND model = ?", (server, model)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def keep_capability(self, server: str, model: str, found: Mapping[str, Json]) -> None:
        """Note what a model on a server was seen to accept."""
        with _sentences(self.path):
            self.db.execute(
                "INSERT OR REPLACE INTO capability VALUES (?, ?, ?, ?)",
                (server, model, json.dumps(found, sort_keys=True), time.time()),
            )

    def plan_batch(
        self, plan: str, server: str, asker: str, turn: int, usd: float, rows: Sequence[tuple[int, bytes]]
    ) -> None:
        """Note a batch and its (attempt, key) rows before anything is sent."""
        now = time.time()
        with _sentences(self.path):
            self.begin_group()
            self.begin([(attempt, key, now) for attempt, key in rows])
            self.db.execute(
                "INSERT INTO batch (plan, server, asker, turn, usd, created) VALUES (?, ?, ?, ?, ?, ?)",
                (plan, server, asker, turn, usd, now),
            )
            self.db.executemany(
                "INSERT INTO batch_row (plan, key, attempt) VALUES (?, ?, ?)",
                [(plan, key, attempt) for attempt, key in rows],
            )
            self.commit()

    def name_batch(self, plan: str, identity: str) -> None:
        """Note the server's name of a batch."""
        with _sentences(self.path):
            self.db.execute("UPDATE batch SET id = ? WHERE plan = ?", (identity, plan))

    def batch_id(self, plan: str) -> str:
        """Return the server's name of a batch."""
        return str(self.db.execute("SELECT id FROM batch WHERE plan = ?", (plan,)).fetchone()[0])

    def open_batches(self, server: str, asker: str) -> list[tuple[str, str | None, int]]:
        """Return (plan, server's name, turn) of batches that were not harvested yet, oldest first."""
        rows = self.db.execute(
            "SELECT plan, id, turn FROM batch WHERE server = ? AND asker = ? AND ended IS NULL"
            " ORDER BY created, plan",
            (server, asker),
        )
        return [(row[0], row[1], row[2]) for row in rows]

    def batch_rows(self, plan: str) -> dict[bytes, int]:
        """Return a batch's rows: key to attempt."""
        return dict(self.db.execute("SELECT key, attempt FROM batch_row WHERE plan = ?", (plan,)))

    def end_batch(self, plan: str) -> None:
        """Note that a batch is harvested; rows that it did not bring cost nothing."""
        self._close_batch(plan, "not in the batch")

    def drop_batch(self, plan: str) -> None:
        """Note that a planned batch was never created."""
        self._close_batch(plan, "never sent")

    def _close_batch(self, plan: str, outcome: str) -> None:
        now = time.time()
        with _sentences(self.path):
            self.begin_group()
            self.db.execute("UPDATE batch SET ended = ? WHERE plan = ?", (now, plan))
            self.db.execute(
                "UPDATE attempt SET ended = ?, outcome = ?, usd = 0 WHERE ended IS NULL"
                " AND id IN (SELECT attempt FROM batch_row WHERE plan = ?)",
                (now, outcome, plan),
            )
            self.db.execute("DELETE FROM batch_row WHERE plan = ?", (plan,))
            self.commit()

    def check(self) -> str:
        """Return SQLite's own verdict on the file: ``ok``, or what is broken."""
        return str(self.db.execute("PRAGMA integrity_check").fetchone()[0])


def _columns(stored: Stored, asker: int | None, now: float) -> tuple[Any, ...]:
    s = stored
    return (
        s.key, asker, s.status, _null(s.value), _null(s.mass), s.reason, s.reader, s.raw, s.model,
        s.input_tokens, s.output_tokens, s.usd, _null(s.latency), now,
    )  # fmt: skip


def _stored(row: Sequence[Any]) -> Stored:
    return Stored(
        key=row[0], status=row[1], value=_float(row[2]), mass=_float(row[3]), reason=row[4], reader=row[5],
        raw=row[6], model=row[7], input_tokens=row[8], output_tokens=row[9], usd=row[10],
        latency=_float(row[11]),
    )  # fmt: skip


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _same(a: Reading, b: Reading) -> bool:
    return a.status == b.status and _null(a.value) == _null(b.value)
