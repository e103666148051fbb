"""A ledger of format 1 becomes one of today's in its place, with every answer, whatever happens meanwhile."""

from __future__ import annotations

import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from dfilter.llm.digest import COLUMNS, holds
from dfilter.llm.ledger import Ledger

ANSWERS = 10_000
OLD = Path(__file__).with_name("ledger_1.sql")
# It dies by its own hand when so many answers have been given a digest.
CHILD = """
import itertools, os, signal, sys
from pathlib import Path
from dfilter.llm import ledger
real, calls, fatal = ledger.answer_digest, itertools.count(1), int(sys.argv[2])
def deadly(*values):
    if next(calls) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*values)
ledger.answer_digest = deadly
ledger.Ledger(Path(sys.argv[1]))
"""


@functools.cache
def answer(i: int) -> tuple:
    draw = random.Random(i)
    raw = '{"choices": [{"message": {"content": "' + "ü" * (i % 50) + '"}}]}'
    return (
        draw.randbytes(16), 1 + i % 2, ("ok", "unparsed", "failed")[i % 3 if i % 10 == 0 else 0],
        float(i % 6) if i % 3 else None, None, "", "score/1", raw if i % 7 else None, "m", 30, 4,
        None if i % 5 else 0.1 * i, 0.25, 1e9 + i,
    )  # fmt: skip


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("old") / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(OLD.read_text(encoding="utf-8"))
        marks = ", ".join("?" * len(COLUMNS))
        db.executemany(
            f"INSERT INTO answer ({', '.join(COLUMNS)}) VALUES ({marks})",
            map(answer, range(ANSWERS)),
        )
        db.executemany(
            "INSERT INTO attempt (id, key, started, ended, outcome, usd) VALUES (?, ?, ?, ?, ?, ?)",
            [(10**6 + i, answer(i)[0], 1e9, 1e9 if i else None, "ok", 0.5) for i in range(100)],
        )
    db.close()
    return path.read_bytes()


def _nothing_lost(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.check() == "ok"
    told = f"SELECT {', '.join(COLUMNS)}, digest FROM answer"
    rows = {row[0]: row for row in ledger.db.execute(told)}
    for i in range(ANSWERS):
        expected = answer(i)
        assert rows[expected[0]][:-1] == expected
        assert rows[expected[0]][-1] is not None
        assert holds(rows[expected[0]], whole=True)
    found = ledger.find([answer(i)[0] for i in range(ANSWERS)])
    assert len(found) == sum(answer(i)[2] != "failed" for i in range(ANSWERS))
    ledger.close()


def test_ten_thousand_answers_are_all_there(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(old)
    _nothing_lost(path)
    ledger = Ledger(path)
    assert ledger.open_attempts() == 0  # what was in flight is nobody's
    told = "SELECT count(*), total(usd), total(asker IS NOT NULL) FROM attempt WHERE id < 2000000"
    assert ledger.db.execute(told).fetchone() == (100, 50.0, 100.0)
    assert ledger.db.execute("PRAGMA user_version").fetchone()[0] == 2
    ledger.close()


@pytest.mark.kills
def test_killed_midway_it_is_what_it_was(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(old)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(ANSWERS - 1)], env={**os.environ}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1
    db.close()
    _nothing_lost(path)


def test_many_who_open_it_at_once_all_get_it(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(old)
    together = Barrier(3)

    def opened(_: int) -> int:
        together.wait()
        ledger = Ledger(path)
        try:
            return len(ledger.find([answer(i)[0] for i in range(1, 1000, 2) if i % 10]))
        finally:
            ledger.close()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(opened, range(3))) == [500] * 3
    _nothing_lost(path)
