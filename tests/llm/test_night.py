"""A night in a quarter of an hour: everything goes wrong, and in the morning every row is rated or named."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dfilter.llm.answers import WORDS
from dfilter.llm.spend import spent
from dfilter.testing import FAULTS, Say, ScriptedServer

SPEED = 60.0  # seconds of the client's in one of ours
CONCURRENCY = 64
PRICE = (10.0, 40.0)
# The command line on a fast clock.
CHILD = """
import sys
from functools import partial
from dfilter.llm import session
from dfilter.llm.clock import Clock
session.Clock = partial(Clock, float(sys.argv.pop(1)))
from dfilter.cli import main
main()
"""
# What the server does with a bad row whenever it is asked, and how that is named.
BAD = (
    (Say("too long", status=400, code="context_length_exceeded"), "truncated"),
    (Say("a wording that nobody knows", status=400), "rejected"),
    (Say("flagged", status=400, code="content_filter"), "filtered"),
    (Say("boom", status=500), "broken"),
    (Say("", status=413), "truncated"),
    (Say(body=b"<html>"), "broken"),
    (Say(then="reset"), "broken"),
    (Say("x", finish="error"), "broken"),
    (Say("no", status=403), "rejected"),
    (Say("I had rather not say.", tokens=[{"I": 1.0}]), "unparsed"),
    (Say(then="hang"), "broken"),
)
RANDOM = (
    "429 zero",
    "429 seconds",
    "500",
    "503",
    "reset",
    "reset paid",
    "truncated json",
    "html",
    "hang paid",
)


class Night:
    """A server's script, and what it did to whom.

    Attributes:
        bad: the rows that it breaks on, with what it does.
        rated: how often it gave each row its rating.
        plan: what happens at which call, by name: an outage of so many seconds, a restart, a rate limit, a
            signal to the client.
    """

    def __init__(self, rows: int, each: int, seed: int) -> None:
        self.draw = random.Random(seed)
        drawn = self.draw.sample(range(rows), each * len(BAD))
        self.bad = {row: BAD[at % len(BAD)] for at, row in enumerate(drawn)}
        self.rated: Counter[int] = Counter()
        self.plan = [
            (rows // 10, "outage", 30.0),
            (rows // 5, "signal", signal.SIGTERM),
            (3 * rows // 10, "restart", 0.0),
            (2 * rows // 5, "outage", 180.0),
            (rows // 2, "signal", signal.SIGKILL),
            (3 * rows // 5, "limit", 120.0),
            (7 * rows // 10, "signal", signal.SIGTERM),
            (4 * rows // 5, "outage", 600.0),
        ]
        self.calls, self.down, self.limited = 0, 0.0, 0.0
        self.tempered = True  # before its restart it takes a temperature
        self.client: subprocess.Popen[bytes] | None = None

    def __call__(self, body: Mapping[str, object]) -> Say:
        self.calls, now = self.calls + 1, time.monotonic()
        if self.plan and self.calls >= self.plan[0][0] and now >= max(self.down, self.limited):
            _, what, how = self.plan.pop(0)
            self.down = now + how / SPEED if what == "outage" else self.down
            self.limited = now + how / SPEED if what == "limit" else self.limited
            self.tempered = self.tempered and what != "restart"
            if what == "signal" and self.client is not None:
                self.client.send_signal(int(how))
        if now < self.down:
            return Say(status=503, paid=False)
        if now < self.limited:
            return Say("slow down", status=429, headers={"retry-after": "20"}, paid=False)
        if "temperature" in body and not self.tempered:
            said = "Unsupported parameter: 'temperature' is not supported with this model."
            return Say(said, status=400, code="unsupported_parameter", paid=False)
        row = number(body)
        if row in self.bad:
            return self.bad[row][0]
        if row >= 0 and self.draw.random() < 0.03:
            return FAULTS[self.draw.choice(RANDOM)]
        if row >= 0:
            self.rated[row] += 1
        return rating(body)


def number(body: Mapping[str, object]) -> int:
    found = re.search(r"Question (\d+)\?", body["messages"][-1]["content"])  # type: ignore[index]
    return int(found[1]) if found else -1


def rating(body: Mapping[str, object]) -> Say:
    return Say(["3", "3.5", "4", "4.5", "5"][number(body) * 7 % 5], tokens=[{"4": 1.0}])


def pool(file: Path, rows: list[int]) -> Path:
    lines = (f'{{"id": "r{i}", "instruction": "Question {i}?", "output": "Answer {i}."}}\n' for i in rows)
    file.write_text("".join(lines))
    return file


def command(url: str, data: Path, out: Path, speed: float) -> list[str]:
    words = [
        "run",
        str(data),
        "-s",
        "alpagasus",
        "--judge",
        "m",
        "--base-url",
        url,
        "--judge-name",
        "scripted",
    ]
    words += ["--price", "/".join(map(str, PRICE))]
    settings = {"concurrency": CONCURRENCY, "first_wait": 0.5, "attempt_seconds": 60.0, "row_seconds": 900.0,
                "longest_pause": 3600.0}  # fmt: skip
    more = [word for name, value in settings.items() for word in ("--set", f"judge.judge.{name}={value}")]
    return [sys.executable, "-c", CHILD, str(speed), *words, "-o", str(out), *more]


@pytest.mark.serial
@pytest.mark.parametrize(
    ("rows", "each", "seed"),
    [
        pytest.param(3000, 3, 0, marks=pytest.mark.slow),
        *(pytest.param(20_000, 20, seed, marks=pytest.mark.soak) for seed in range(2)),
    ],
)
def test_in_the_morning_every_row_is_rated_or_named(tmp_path: Path, rows: int, each: int, seed: int) -> None:
    night, ends = Night(rows, each, seed), []
    data, out = pool(tmp_path / "pool.jsonl", list(range(rows))), tmp_path / "night"
    with ScriptedServer(night, latency=0.002, price=PRICE, keep_log=False) as server:
        while not ends or (ends[-1] and len(ends) < 8):
            night.client = subprocess.Popen(command(server.url, data, out, SPEED), stderr=subprocess.PIPE)
            stderr = night.client.communicate()[1].decode()
            ends.append(night.client.returncode)
        assert ends[-1] == 0, stderr
        assert sorted(ends[:-1]) == [-signal.SIGKILL, 130, 130], (ends, stderr)
        assert not night.plan
    told = pq.read_table(out / "decisions.parquet").to_pylist()
    named = {int(row["id"][1:]): row["reason"] for row in told if int(row["id"][1:]) in night.bad}
    for row, (_, status) in night.bad.items():
        assert status in named[row] or WORDS.get(status, status) in named[row], (row, status, named[row])
    fine = [row for row in range(rows) if row not in night.bad]
    calm: Counter[int] = Counter()  # rows are judged twice where a second opinion is wanted

    def counted(body: Mapping[str, object]) -> Say:
        if number(body) >= 0:
            calm[number(body)] += 1
        return rating(body)

    with ScriptedServer(counted) as quiet:
        pure = pool(tmp_path / "fine.jsonl", fine)
        words = command(quiet.url, pure, tmp_path / "quiet", 1.0)
        home = {**os.environ, "DFILTER_HOME": str(tmp_path / "home")}  # with a ledger that knows no rating
        subprocess.run(words, check=True, capture_output=True, env=home)
    selected = [(folder / "selected.jsonl").read_bytes() for folder in (out, tmp_path / "quiet")]
    assert selected[0] == selected[1]
    assert set(night.rated) == set(fine)
    assert night.rated.total() - calm.total() <= 3 * CONCURRENCY
    (budget,) = [one.totals for one in spent() if one.of.get("budget") == str(out)]
    assert budget.usd - 1e-6 <= server.bill <= budget.usd + budget.usd_uncertain + budget.usd_reserved + 1e-6
