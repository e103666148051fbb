"""The ledger keeps what was committed, loses what was not, and never replaces a final answer."""

from __future__ import annotations

import math
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from dfilter.errors import StoreError
from dfilter.llm.answers import FAILED, FINAL, Reply
from dfilter.llm.ledger import Attempt, Ending, Ledger, Stored
from dfilter.llm.scores import ExpectedScore, TextScore


def stored(key: bytes, status: str, value: float, raw: str | None = None) -> Stored:
    return Stored(key, status, value, math.nan, "", "score/1", raw, "m", 10, 2, 0.001, 0.1)


class LedgerMachine(RuleBasedStateMachine):
    """Groups of writes, commits and crashes, against two dictionaries."""

    attempts = Bundle("attempts")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.ledger = Ledger(self.path)
        self.durable: dict[bytes, tuple[str, float | None]] = {}
        self.open_attempts: set[int] = set()
        self.pending: list[tuple] = []

    @rule(target=attempts, key=st.integers(0, 5))
    def begin(self, key: int) -> tuple[int, bytes]:
        number = self.ledger.next_attempt()
        self.pending.append(("begin", number, bytes([key]) * 16))
        return number, bytes([key]) * 16

    @rule(
        attempt=consumes(attempts),
        status=st.sampled_from([*sorted(FINAL), FAILED]),
        value=st.sampled_from([0.0, 4.5, 5.0]),
    )
    def end(self, attempt: tuple[int, bytes], status: str, value: float) -> None:
        self.pending.append(("end", attempt[0], attempt[1], status, value if status == "ok" else math.nan))

    @rule(attempt=consumes(attempts))
    def end_without_answer(self, attempt: tuple[int, bytes]) -> None:
        self.pending.append(("end", attempt[0], attempt[1], None, math.nan))

    def _write(self) -> None:
        self.ledger.begin_group()
        for what, number, key, *rest in self.pending:
            if what == "begin":
                self.ledger.begin([Attempt(number, key, 1.0)])
            else:
                answer = stored(key, *rest) if rest[0] else None
                self.ledger.end([Ending(number, 200, rest[0] or "reset", 0.001, answer)])

    @rule()
    def commit(self) -> None:
        self._write()
        self.ledger.commit()
        for what, number, key, *rest in self.pending:
            if what == "begin":
                self.open_attempts.add(number)
                continue
            self.open_attempts.discard(number)
            if rest[0] and self.durable.get(key, ("failed", None))[0] == "failed":
                self.durable[key] = (rest[0], None if math.isnan(rest[1]) else rest[1])
        self.pending = []

    @rule(midway=st.booleans())
    def crash(self, midway: bool) -> None:
        """Lose the process; with ``midway`` inside a group that was written and not committed."""
        if midway:
            self._write()
        self.ledger.close()
        self.pending = []
        self.ledger = Ledger(self.path)

    @invariant()
    def committed_answers_and_nothing_else_are_found(self) -> None:
        if not hasattr(self, "ledger"):
            return
        found = self.ledger.find([bytes([k]) * 16 for k in range(6)])
        shown = {k: (s.status, None if math.isnan(s.value) else s.value) for k, s in found.items()}
        assert shown == {k: v for k, v in self.durable.items() if v[0] in FINAL}

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def attempts_without_an_end_are_counted(self) -> None:
        assert self.ledger.open_attempts() == len(self.open_attempts)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.check() == "ok"
            self.ledger.close()
            self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestLedger = LedgerMachine.TestCase


def test_the_file_is_made_for_power_failures(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert ledger.db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    ledger.close()


def test_a_ledger_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="format 99"):
        Ledger(path)


def test_what_is_no_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        Ledger(path)


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    a, b = Ledger(tmp_path / "l.sqlite"), Ledger(tmp_path / "l.sqlite")
    for turn, ledger in enumerate((a, b, a, b)):
        number = ledger.next_attempt()
        ledger.begin_group()
        ledger.begin([Attempt(number, b"k%d" % turn, 1.0)])
        ledger.end([Ending(number, 200, "ok", 0.0, stored(b"k%d" % turn, "ok", 1.0))])
        ledger.commit()
    assert a.count() == b.count() == {"ok": 4}
    a.close()
    b.close()


def test_stored_answers_are_read_again_for_free(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    asker = ledger.asker("abc", {"kind": "rating"})
    body = '{"choices": [{"message": {"content": "4.5/5"}, "finish_reason": "stop"}]}'
    number = ledger.next_attempt()
    ledger.begin_group()
    ledger.begin([Attempt(number, b"k", 1.0)])
    ledger.end([Ending(number, 200, "unparsed", 0.0, stored(b"k", "unparsed", math.nan, body), asker)])
    ledger.commit()
    preview = ledger.reread(asker, TextScore(), write=False)
    assert ledger.find([b"k"])[b"k"].status == "unparsed"
    changed = ledger.reread(asker, TextScore())
    assert preview == changed
    assert [(before.status, now.value) for _, before, now in changed] == [("unparsed", 4.5)]
    assert ledger.find([b"k"])[b"k"].value == 4.5
    assert ledger.reread(asker, TextScore()) == []
    assert TextScore().read(Reply("4.5/5")).value == 4.5
    assert ExpectedScore().read(Reply("4.5/5")).status == "unparsed"
    assert ledger.askers()[0][3] == 1
    ledger.close()


def test_many_who_open_a_new_ledger_at_once_all_get_it(tmp_path: Path) -> None:
    """Turning write-ahead logging on is the moment when SQLite refuses instead of waiting."""

    def opened(path: Path) -> bool:
        together.wait()
        Ledger(path).close()
        return True

    with ThreadPoolExecutor(6) as pool:
        for number in range(150):
            together = Barrier(6)
            path = tmp_path / f"{number}.sqlite"
            assert all(pool.map(opened, [path] * 6))
