"""Answers that are final until somebody says otherwise: asked again, or forgotten.

To ask again marks an answer: it stays as it is, and counts as none, until a new one is in. To forget removes
it at once. Both leave a mark with the time, so that a run that was finished before knows that it is not any
more. What was paid stays in the ledger's attempts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.errors import InputError, SettingsError, suggest
from dfilter.llm.answers import FAILED, FINAL, STATUSES, WORDS
from dfilter.llm.judge import rating_key
from dfilter.llm.ledger import ASKED, Ledger
from dfilter.llm.server import IMPORTED
from dfilter.llm.session import ledger_path
from dfilter.types import pooled_key

if TYPE_CHECKING:
    from sqlite3 import Connection

KNOWN = tuple(status for status in STATUSES if status in FINAL)
_BY_WORDS = {words: status for status, words in WORDS.items()}


@dataclass(frozen=True)
class Judged:
    """Rows, and who rated them.

    Attributes:
        ids: (n,) of the rows.
        keys: (n,) of the rows' contents.
        judges: their hashes; every judge in the ledger when empty.
    """

    ids: Sequence[str]
    keys: Sequence[bytes]
    judges: tuple[str, ...] = ()

    def of(self, judge: str, repeat: int) -> Iterator[tuple[int, bytes]]:
        """Yield the keys that one judge's ratings may have, each with its row's place.

        A conversation is rated by its last reply, or by all together.
        """
        for place, key in enumerate(self.keys):
            yield place, rating_key(key, judge, repeat)
            yield place, rating_key(pooled_key(key), judge, repeat)


@dataclass(frozen=True)
class Choice:
    """Which answers are meant.

    Attributes:
        statuses: theirs; any when empty.
        judge: the judge's model, or the name it was given; any when empty.
        rows: ratings of these alone.
        again: only what can be asked for again, and is not yet.
    """

    statuses: tuple[str, ...] = ()
    judge: str = ""
    rows: Judged | None = None
    again: bool = False

    def meant(self, name: str, spec: Mapping[str, Any]) -> bool:
        """Return whether an asker's answers are meant, given its hash and spec."""
        if self.again and str(spec.get("model")).startswith(IMPORTED):
            return False
        if self.judge and self.judge not in {spec.get("model"), spec.get("server")}:
            return False
        if self.rows is None:
            return True
        return spec.get("kind") == "rating" and (not self.rows.judges or name in self.rows.judges)


@dataclass(frozen=True)
class Chosen:
    """One asker's answers that were chosen.

    Attributes:
        asker: its number.
        spec: who asked what of whom.
        before: how many answers of each status it had.
        taken: how many of each were chosen.
        usd: what these cost, as far as that is known.
        unpriced: how many of them cost nobody knows how much.
    """

    asker: int
    spec: Mapping[str, Any]
    before: Mapping[str, int]
    taken: Mapping[str, int] = field(default_factory=dict)
    usd: float = 0.0
    unpriced: int = 0

    def line(self, becomes: str) -> str:
        """Return it as a person reads it.

        Args:
            becomes: what becomes of the answers.
        """
        number, had = sum(self.taken.values()), sum(self.before.values())
        which = f"{_counted(self.taken)}; {paid([self])}"
        left = _counted(Counter(self.before) - Counter(self.taken)) or "none"
        return f"{who(self.spec)}: {number:,} of {had:,} answers {becomes} ({which}); {left} left"


def who(spec: Mapping[str, Any]) -> str:
    """Return who asked, as a person reads it."""
    kind, model, place = (spec.get(name, "?") for name in ("kind", "model", "server"))
    mode = f", {spec['mode']}" if "mode" in spec else ""
    if kind == "rating" and not mode:  # imported, where the scale must be known to find it
        mode = f", {spec.get('low')} to {spec.get('high')}"
    return f"{kind} by {model}{mode} at {place}"


def paid(chosen: Sequence[Chosen]) -> str:
    """Return what answers cost, as a person reads it."""
    usd, unpriced = sum(one.usd for one in chosen), sum(one.unpriced for one in chosen)
    known = [f"${usd:.4f} paid"] if usd or not unpriced else []
    return ", ".join([*known, *([f"{unpriced:,} of unknown cost"] if unpriced else [])])


def _counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {status}" for status, number in sorted(statuses.items()))


def statuses_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the statuses that texts name, with commas; also as summaries say them.

    Raises:
        SettingsError: none is named, or an unknown one.
    """
    said = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    named = [_BY_WORDS.get(part, part) for part in said]
    findings = [f"There is no status '{name}'. {suggest(name, KNOWN)}" for name in named if name not in KNOWN]
    if FAILED in named:
        findings = [f"What has the status '{FAILED}' is asked again by every run. {suggest('', KNOWN)}"]
    if not named:
        findings = [f"Name what is meant with --status, for instance --status unparsed. {suggest('', KNOWN)}"]
    if findings:
        raise SettingsError(*findings)
    return tuple(dict.fromkeys(named))


@contextmanager
def opened(path: Path | None = None) -> Iterator[Ledger]:
    """Open the ledger, which must be there.

    Raises:
        InputError: nothing was ever asked.
    """
    path = path or ledger_path()
    if not path.is_file():
        raise InputError(
            f"There is no ledger at {path}; nothing was ever asked. DFILTER_HOME says where it lies."
        )
    book = Ledger(path)
    try:
        yield book
    finally:
        book.close()


def find(book: Ledger, choice: Choice) -> list[Chosen]:
    """Return the answers that are meant, by who asked; only who has some."""
    meant = [(number, name, spec) for number, name, spec, _ in book.askers() if choice.meant(name, spec)]
    if choice.rows is not None:
        for number, name, _ in meant:
            _note_wanted(book.db, choice.rows, number, name)
    found = [_chosen(book.db, choice, number, spec) for number, _, spec in meant]
    return [one for one in found if one.taken]


def ask_again(book: Ledger, choice: Choice) -> list[Chosen]:
    """Mark answers, so that they are asked for again."""
    return _changed(book, replace(choice, again=True))


def forget(book: Ledger, choice: Choice) -> list[Chosen]:
    """Remove answers; what was paid for them stays counted."""
    return _changed(book, choice, remove=True)


def asked_again_since(
    moment: float, *, ledger: Path | None = None, models: Collection[str] | None = None
) -> set[bytes]:
    """Return the keys of answers that somebody asked to be asked again after a moment, or forgot.

    Args:
        moment: in seconds since 1970.
        ledger: the ledger's file; one that is absent holds none.
        models: only verdicts of evaluations, by these judges.
    """
    path = ledger or ledger_path()
    if not path.is_file():
        return set()
    with opened(path) as book:
        rows = book.db.execute("SELECT key, asker FROM asked_again WHERE since > ?", (moment,)).fetchall()
        if models is None or not rows:
            return {key for key, _ in rows}
        judged = {
            number
            for number, _, spec, _ in book.askers()
            if spec.get("kind") == "evaluation" and spec.get("model") in models
        }
        return {key for key, asker in rows if asker in judged}


def _changed(book: Ledger, choice: Choice, *, remove: bool = False) -> list[Chosen]:
    book.begin_group()
    try:
        found = find(book, choice)
        for one in found:
            condition, values = where(choice, one.asker)
            book.db.execute(
                "INSERT OR REPLACE INTO asked_again (key, asker, since, open)"  # noqa: S608
                f" SELECT key, asker, ?, 1 FROM answer WHERE {condition}",
                (time.time(), *values),
            )
            if remove:
                book.db.execute(f"DELETE FROM answer WHERE {condition}", values)  # noqa: S608
        book.commit()
    except BaseException:
        book.rollback()
        raise
    return found


def _chosen(db: Connection, choice: Choice, asker: int, spec: Mapping[str, Any]) -> Chosen:
    before = db.execute("SELECT status, count(*) FROM answer WHERE asker = ? GROUP BY status", (asker,))
    condition, values = where(choice, asker)
    taken = db.execute(
        "SELECT status, count(*), total(usd), count(*) - count(usd) FROM answer"  # noqa: S608
        f" WHERE {condition} GROUP BY status",
        values,
    ).fetchall()
    return Chosen(
        asker,
        spec,
        dict(before),
        {status: number for status, number, _, _ in taken},
        sum(usd for _, _, usd, _ in taken),
        sum(unpriced for _, _, _, unpriced in taken),
    )


def where(choice: Choice, asker: int) -> tuple[str, tuple[Any, ...]]:
    """Return the condition of the answers that :func:`find` found, and the values of its question marks."""
    text = f"asker = ? AND status != '{FAILED}'"
    if choice.statuses:
        text += f" AND status IN ({','.join('?' * len(choice.statuses))})"
    if choice.rows is not None:
        text += " AND answer.key IN (SELECT key FROM temp.wanted)"
    if choice.again:
        text += f" AND NOT {ASKED}"
    return text, (asker, *choice.statuses)


def _note_wanted(db: Connection, rows: Judged, number: int, judge: str) -> None:
    """Put a judge's ratings of the rows into ``temp.wanted``: key, position of the row, repeat."""
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS wanted (key BLOB, place INTEGER, repeat INTEGER,"
        " PRIMARY KEY (key, place, repeat)) WITHOUT ROWID"
    )
    repeat, more = 0, 1
    while more or repeat < 2:  # the second repeat is the judge's second opinion, of some rows only
        before = db.total_changes
        db.executemany(
            "INSERT OR IGNORE INTO wanted SELECT key, ?, ? FROM answer WHERE key = ? AND asker = ?",
            ((place, repeat, key, number) for place, key in rows.of(judge, repeat)),
        )
        repeat, more = repeat + 1, db.total_changes - before
