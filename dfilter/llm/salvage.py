"""A new ledger of all that is whole in a damaged one.

An answer is taken over when its digest confirms it; one without a digest (an older program wrote it) when it
can be read. What was in flight counts as perhaps billed. The damaged file is kept beside the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfilter.digests import json_digest
from dfilter.errors import InputError, StoreError
from dfilter.llm.accounts import SUMS, Totals, budget_digest, end
from dfilter.llm.answers import STATUSES, GarbledError, read_body
from dfilter.llm.digest import COLUMNS, answer_digest, holds
from dfilter.llm.ledger import Ending, Ledger
from dfilter.llm.pages import Pages
from dfilter.llm.session import ledger_path
from dfilter.llm.tables import FORMAT, LOST
from dfilter.store.disk import disk_errors, sync

ANSWER = len(COLUMNS) + 2  # columns of the tables: with an id, and the digest of today's format
ATTEMPT, ATTEMPT_1, BUDGET, ASKER = 13, 7, len(Totals._fields) + 3, 3
HELD = 128  # the byte of the -shm file that every connection locks: UNIX_SHM_DMS in SQLite's os_unix.c
_BUDGET_ORDER = (
    "calls", "tokens", "usd", "usd_uncertain", "tokens_uncertain", "usd_reserved", "tokens_reserved",
    "unpriced",
)  # fmt: skip
_MARKS = ", ".join("?" * (len(COLUMNS) + 1))
_KEEP = (
    f"INSERT INTO answer ({', '.join(COLUMNS)}, digest) VALUES ({_MARKS}) ON CONFLICT (key) DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{column} = excluded.{column}" for column in (*COLUMNS, "digest"))
    + " WHERE excluded.created >= answer.created"
)


@dataclass
class Salvaged:
    """What was found in a damaged ledger.

    Attributes:
        answers: that are in the new ledger.
        unconfirmed: those of them that had no digest.
        broken: answers that are not what was written; they are asked again.
        kept: where the damaged file is now; None when there was no damage.
    """

    answers: int = 0
    unconfirmed: int = 0
    broken: set[bytes] = field(default_factory=set)
    kept: Path | None = None

    def line(self) -> str:
        """Return it as a person reads it."""
        if self.kept is None:
            return f"The ledger is whole: {self.answers:,} answers; nothing was changed."
        some = f", {self.unconfirmed:,} of them without a checksum" if self.unconfirmed else ""
        lost = f" {len(self.broken):,} are not what was written; they are asked again." if self.broken else ""
        return (
            f"{self.answers:,} answers are whole and stand in the new ledger{some}.{lost} The damaged file "
            f"is kept as {self.kept}."
        )


def salvage(path: Path | None = None) -> Salvaged:
    """Put a ledger of all that is whole in the place of a damaged one, which is kept beside it.

    Args:
        path: the ledger's file; ``DFILTER_HOME/ledger.sqlite`` unless given.

    Raises:
        InputError: there is no ledger.
        StoreError: another process uses it, or the new one cannot be written.
    """
    path = path or ledger_path()
    if not path.is_file():
        raise InputError(f"There is no ledger at {path}. DFILTER_HOME says where it lies.")
    with disk_errors(path), _alone(path), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        copy, new = Path(scratch) / "copy.sqlite", Path(scratch) / "new.sqlite"
        shutil.copyfile(path, copy)
        if _log(path).exists():
            shutil.copyfile(_log(path), _log(copy))
        found = Salvaged(answers=_whole(copy))
        if found.answers >= 0:
            return found
        found.answers = 0
        ledger = Ledger(new)
        with ledger.group():
            _take_over(_records(path), ledger, found)
            _open_matters(copy, ledger)
            _close_accounts(ledger)
        found.answers = sum(ledger.count().values())
        ledger.close()
        sync(new)
        found.kept = _swap(path, new)
    return found


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep every other process from the file; SQLite itself waits for the byte that we lock."""
    shared = path.with_name(f"{path.name}-shm")
    with shared.open("ab+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, HELD)
        except OSError as error:
            raise StoreError(f"Another process uses the ledger {path}; wait for it, or end it.") from error
        try:
            yield
        finally:
            shared.unlink(missing_ok=True)


def _whole(copy: Path) -> int:
    """Return how many answers an undamaged ledger has; -1 for a damaged one."""
    told = f"SELECT {', '.join(COLUMNS)}, digest FROM answer"  # noqa: S608 - our own names
    try:
        with contextlib.closing(sqlite3.connect(copy)) as db:
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            sound = version in {1, FORMAT} and db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            if not sound or version == 1:
                return db.execute("SELECT count(*) FROM answer").fetchone()[0] if sound else -1
            count = 0
            for row in db.execute(told):
                count += 1
                if not holds(row, whole=True):
                    return -1
            budgets = db.execute(f"SELECT name, {', '.join(Totals._fields)}, digest FROM budget")  # noqa: S608
            return count if all(budget_digest(b[0], Totals(*b[1:-1])) == b[-1] for b in budgets) else -1
    except sqlite3.DatabaseError:
        return -1


def _records(path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield every record of the file, then those as the log has changed them."""
    log = _log(path).read_bytes() if _log(path).exists() else b""
    with path.open("rb") as file:
        data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        yield from Pages(data).records()
        if log:
            yield from Pages(data, log).records()


def _take_over(records: Iterator[tuple[int, tuple[Any, ...]]], ledger: Ledger, found: Salvaged) -> None:
    """Put what is whole into the new ledger."""
    db = ledger.db
    for number, columns in records:
        if columns[0] is not None or number <= 0:
            continue
        if len(columns) in {ANSWER, ANSWER - 1}:
            _take_answer(db, columns[1:], found)
        elif len(columns) == ASKER and _is_asker(*columns[1:]):
            db.execute(
                "INSERT OR REPLACE INTO asker (id, hash, spec) VALUES (?, ?, ?)", (number, *columns[1:])
            )
        elif len(columns) == BUDGET:
            _take_budget(db, number, columns[1:])
        elif len(columns) in {ATTEMPT, ATTEMPT_1} and _is_attempt(columns[1:]):
            values = (number, *columns[1:]) + (
                (None, None, None, 0.0, 0, None) if len(columns) == ATTEMPT_1 else ()
            )
            db.execute(
                "INSERT INTO attempt (id, key, started, ended, http, outcome, usd, asker, budget, owner,"
                " worst_usd, worst_tokens, tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, http = excluded.http,"
                " outcome = excluded.outcome, usd = excluded.usd, tokens = excluded.tokens"
                " WHERE excluded.ended IS NOT NULL",
                values,
            )


def _take_answer(db: sqlite3.Connection, row: Sequence[Any], found: Salvaged) -> None:
    values, digest = row[: len(COLUMNS)], row[-1] if len(row) > len(COLUMNS) else None
    if not isinstance(values[0], bytes):
        return
    if not _is_answer(values) or (digest is not None and not holds((*values, digest), whole=True)):
        found.broken.add(values[0])
        return
    found.unconfirmed += digest is None
    found.broken.discard(values[0])
    db.execute(_KEEP, (*values, answer_digest(*values)))


def _is_answer(values: Sequence[Any]) -> bool:
    told = dict(zip(COLUMNS, values, strict=True))
    texts = all(isinstance(told[name], str) for name in ("reason", "reader", "model"))
    numbers = ("value", "mass", "usd", "latency", "input_tokens", "output_tokens", "asker")
    if not texts or told["status"] not in STATUSES or not isinstance(told["created"], int | float):
        return False
    if any(told[name] is not None and not isinstance(told[name], int | float) for name in numbers):
        return False
    try:
        return told["raw"] is None or bool(read_body(told["raw"]))
    except (GarbledError, TypeError):
        return False


def _is_asker(name: Any, spec: Any) -> bool:
    try:
        return isinstance(name, str) and json_digest(json.loads(spec)) == name
    except (ValueError, TypeError):
        return False


def _is_attempt(values: Sequence[Any]) -> bool:
    key, started, ended, http, outcome, usd = values[:6]
    whole = isinstance(key, bytes) and isinstance(started, int | float) and 0 < started < 1e11
    return (
        whole
        and (ended is None or isinstance(ended, int | float))
        and (http is None or isinstance(http, int))
        and (outcome is None or isinstance(outcome, str))
        and (usd is None or (isinstance(usd, int | float) and usd >= 0))
        and all(value is None or isinstance(value, int | float) for value in values[6:])
    )


def _take_budget(db: sqlite3.Connection, number: int, row: Sequence[Any]) -> None:
    """Take a budget over; one that its digest does not confirm is counted anew from its attempts later."""
    name, digest = row[0], row[-1]
    if name is not None and not isinstance(name, str):
        return
    usual = [getattr(Totals(), column) for column in _BUDGET_ORDER]
    with contextlib.suppress(ValueError, TypeError):
        told = [type(value)(given) for value, given in zip(usual, row[1:-1], strict=True)]
        totals = Totals(**dict(zip(_BUDGET_ORDER, told, strict=True)))
        if budget_digest(name, totals) == digest:
            _write_budget(db, number, name, totals)
            return
    db.execute("INSERT OR IGNORE INTO budget (id, name) VALUES (?, ?)", (number, name))


def _write_budget(db: sqlite3.Connection, number: int, name: str | None, totals: Totals) -> None:
    marks = ", ".join("?" * len(totals))
    db.execute(
        f"INSERT OR REPLACE INTO budget (id, name, {', '.join(totals._fields)}, digest)"  # noqa: S608
        f" VALUES (?, ?, {marks}, ?)",
        (number, name, *totals, budget_digest(name, totals)),
    )


def _open_matters(copy: Path, ledger: Ledger) -> None:
    """Take over the batches at servers and what is to be asked again, as far as SQLite reads them."""
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(copy)) as db:
        for table, marks in (("batch", 8), ("batch_row", 3), ("asked_again", 4)):
            for row in db.execute(f"SELECT * FROM {table}"):  # noqa: S608
                ledger.db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * marks)})", row)  # noqa: S608


def _close_accounts(ledger: Ledger) -> None:
    """End what was in flight, as perhaps billed; what was reserved and cannot be found counts as that too."""
    db = ledger.db
    for number, name, digest, *held in db.execute(
        f"SELECT id, name, digest, {', '.join(Totals._fields)} FROM budget"  # noqa: S608
    ).fetchall():
        told = db.execute(f"SELECT {SUMS} FROM attempt WHERE budget = ?", (number,)).fetchone()  # noqa: S608
        seen, known = Totals(*told), Totals(*held) if digest is not None else Totals(*told)
        lost = Totals(
            tokens_uncertain=known.tokens_reserved - seen.tokens_reserved,
            tokens_reserved=seen.tokens_reserved - known.tokens_reserved,
            usd_uncertain=known.usd_reserved - seen.usd_reserved,
            usd_reserved=seen.usd_reserved - known.usd_reserved,
        )
        _write_budget(db, number, name, known.plus(lost))
    db.execute("UPDATE attempt SET budget = NULL WHERE budget NOT IN (SELECT id FROM budget)")
    left = db.execute(
        "SELECT id FROM attempt WHERE ended IS NULL AND id NOT IN (SELECT attempt FROM batch_row)"
    ).fetchall()
    end(db, [Ending(number, None, LOST, None) for (number,) in left])


def _swap(path: Path, new: Path) -> Path:
    """Put the new file in the place of the damaged one, which stays under another name."""
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06}")
    for old, aside in ((path, kept), (_log(path), _log(kept))):
        if old.exists():
            shutil.copyfile(old, aside)
            sync(aside)
    _log(path).unlink(missing_ok=True)  # SQLite would play it into the new file
    new.replace(path)
    sync(path.parent)
    return kept
