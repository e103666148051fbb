"""A damaged ledger gives back every answer that its digest confirms, and is kept beside the new one."""

from __future__ import annotations

import functools
import random
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dfilter.errors import DamagedError, StoreError
from dfilter.llm.accounts import Limits
from dfilter.llm.ledger import Attempt, Ending, Ledger, Stored
from dfilter.llm.salvage import salvage
from tests.damages import Damage

ANSWERS = 200
NEAR = 100  # bytes before and after a body that belong to its record


@functools.cache
def key(i: int) -> bytes:
    return random.Random(i).randbytes(16)


def body(i: int) -> str:
    """Return a body whose pieces say whose they are; every fortieth is longer than a page."""
    words = "".join(f"<{i}.{k}>" for k in range(1500 if i % 40 == 0 else 10 + i % 30))
    return '{"choices": [{"message": {"content": "' + words + '"}}]}'


def written(path: Path) -> Ledger:
    """Return a ledger of many answers, three attempts in flight and a budget."""
    ledger = Ledger(path)
    asker = ledger.asker("0" * 16, {"kind": "rating", "model": "m"})
    budget, owner = ledger.open_budget("night"), ledger.open_owner()
    for start in range(0, ANSWERS + 3, 50):
        rows = range(start, min(start + 50, ANSWERS + 3))
        with ledger.group():
            ledger.begin(
                [Attempt(i + 1, key(i), 1e9, asker, budget, owner, 0.5, 100) for i in rows], Limits()
            )
            ledger.end([Ending(i + 1, 200, "ok", 0.25, stored(i), asker, 40) for i in rows if i < ANSWERS])
    return ledger


@functools.cache
def stored(i: int) -> Stored:
    return Stored(key(i), "ok", i % 6, 0.5, "", "score/1", body(i), "m", 30, 10, 0.25, 0.125)


@functools.cache
def spans(data: bytes) -> dict[int, tuple[int, int]]:
    """Return where each answer stands in the file."""
    found: dict[int, tuple[int, int]] = {}
    for piece in re.finditer(rb"<(\d+)\.\d+>", data):  # those that go over a page's end are between others
        a, b = found.get(int(piece[1]), (len(data), 0))
        found[int(piece[1])] = min(a, piece.start() - NEAR), max(b, piece.end() + NEAR)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "ledger.sqlite"
    written(path).close()
    return path.read_bytes()


def _lost_nothing(path: Path, data: bytes, touched: range) -> None:
    before = path.read_bytes()
    found = salvage(path)
    ledger = Ledger(path)
    assert ledger.check() == "ok"
    answers = ledger.find([key(i) for i in range(ANSWERS)])
    totals = ledger.totals(ledger.open_budget("night"))
    ledger.close()
    assert all(answers[key(i)] == stored(i) for i in range(ANSWERS) if key(i) in answers)
    safe = [i for i, (a, b) in spans(data).items() if b <= touched.start or a >= touched.stop]
    assert {key(i) for i in safe} <= answers.keys()
    assert len(answers) == found.answers
    if found.kept is None:
        assert path.read_bytes() == before  # nothing was changed
        return
    assert found.kept.read_bytes() == before
    assert salvage(path).kept is None
    name = data.index(b"night")
    if touched.start > name + NEAR or touched.stop <= name - NEAR:
        assert totals.usd == ANSWERS * 0.25
        assert totals.usd_uncertain == 1.5  # what was in flight


def _damaged(tmp_path: Path, data: bytes, number: int) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(data)
    Damage(["flip", "cut", "zero"][number % 3], path.name, path.name, number).do(tmp_path)
    now = path.read_bytes()
    size = min(len(now), len(data))
    changed = [at for at in range(size) if now[at] != data[at]] if now[:size] != data[:size] else []
    first = min([*changed, len(now)])
    last = len(data) if len(now) < len(data) else max([*changed, -1]) + 1
    _lost_nothing(path, data, range(first, max(first, last)))


@pytest.mark.parametrize("number", range(12))
def test_twelve_damages_lose_nothing_that_a_digest_confirms(
    number: int, tmp_path: Path, whole: bytes
) -> None:
    _damaged(tmp_path, whole, number)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(12, 112))
def test_a_hundred_damages_lose_nothing_that_a_digest_confirms(
    number: int, tmp_path: Path, whole: bytes
) -> None:
    _damaged(tmp_path, whole, number)


@pytest.mark.parametrize("at", [0, 60, 103])
def test_a_damaged_head_loses_no_answer(at: int, tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    data = bytearray(whole)
    data[at : at + 2] = b"\xff\xff"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"cannot be used|has format"):
        Ledger(path)
    _lost_nothing(path, whole, range(at, at + 2))


def test_what_is_in_the_log_alone_is_salvaged_too(tmp_path: Path) -> None:
    ledger = written(tmp_path / "first.sqlite")
    path = tmp_path / "ledger.sqlite"
    for end in ("", "-wal"):
        data = (tmp_path / f"first.sqlite{end}").read_bytes()
        (tmp_path / f"ledger.sqlite{end}").write_bytes(data if end else data[:40] + b"\xff" + data[41:])
    ledger.close()
    found = salvage(path)
    assert found.answers == ANSWERS


def test_an_answer_that_is_not_what_was_written_is_asked_again(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(whole.replace(b"<7.3>", b"<7.4>"))
    ledger = Ledger(path)
    assert ledger.find([key(7)]) == {}
    assert ledger.damaged == 1
    assert ledger.find([key(7)], raw=False)  # its value holds
    with ledger.group():
        ledger.begin([Attempt(10**6, key(7), 1.0)])
        ledger.end([Ending(10**6, 200, "ok", 0.0, stored(7))])
    assert ledger.find([key(7)])[key(7)] == stored(7)
    ledger.close()


def test_damage_is_said_with_what_helps(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedError, match="dfilter judge salvage"):
        Ledger(path)
    assert salvage(path).answers == 0
    Ledger(path).close()


def test_a_ledger_in_use_is_left_alone(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(whole)
    told = f"from dfilter.llm.salvage import salvage; from pathlib import Path; salvage(Path({str(path)!r}))"
    ledger = Ledger(path)
    ledger.count()
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert "Another process uses the ledger" in done.stderr
    ledger.close()


def test_a_ledger_of_format_1_is_salvaged_by_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(Path(__file__).with_name("ledger_1.sql").read_text())
        db.execute("PRAGMA user_version = 1")
        held = db.execute("SELECT key, value FROM answer WHERE status != 'failed'").fetchall()
    db.close()
    data = bytearray(path.read_bytes())
    data[:16] = bytes(16)
    path.write_bytes(data)
    found = salvage(path)
    assert found.unconfirmed == found.answers >= len(held) > 0
    ledger = Ledger(path)
    answers = ledger.find([k for k, _ in held])
    assert all(answers[k].value == v for k, v in held if v is not None)
    ledger.close()


@pytest.mark.parametrize("head", [bytes(512), b"\x05", b"\x8d", b"\x0d\x00\x00\x00\x00"])
def test_a_page_whose_head_is_damaged_loses_only_what_stood_there(
    head: bytes, tmp_path: Path, whole: bytes
) -> None:
    path = tmp_path / "ledger.sqlite"
    at = spans(whole)[107][0] // 4096 * 4096
    assert whole[at] == 0x0D  # a leaf
    path.write_bytes(whole[:at] + head + whole[at + len(head) :])
    _lost_nothing(path, whole, range(at, at + len(head)))
