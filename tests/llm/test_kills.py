"""Killed at any moment, a run loses no acknowledged rating and pays again only what was in flight."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dfilter.llm.ledger import Ledger
from dfilter.llm.session import ledger_path
from dfilter.store import home
from dfilter.testing import FAULTS, ScriptedServer

CONCURRENCY = 32
CHILD = """
import sys
from dfilter.llm.judge import Judge, rate
from dfilter.llm.session import open_session
from dfilter.types import Example, Message
url, rows, acknowledged = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "ab", buffering=0)
judge = Judge(model="m", base_url=url, name="scripted", concurrency=32, attempt_seconds=3, first_wait=0.01,
              longest_pause=0.02, attempts=50)
examples = [Example(str(i), (Message("user", f"Question {i}?"), Message("assistant", f"Answer {i}.")), {})
            for i in range(rows)]
class Watched:
    def __init__(self, session): self.session = session
    def ask(self, *args, **kwargs):
        for answer in self.session.ask(*args, **kwargs):
            acknowledged.write(answer.key + b"%04.1f" % answer.value)
            yield answer
with open_session(judge.server) as session:
    ratings = rate(examples, judge, session=Watched(session))
import numpy as np
np.save(sys.argv[4], ratings["value"])
"""
# 6 % mixed faults; of these, some are paid and lost.
MIXED = (
    "429 zero",
    "429 seconds",
    "500",
    "503",
    "reset paid",
    "reset",
    "truncated json",
    "html",
    "hang paid",
)


def _answer(body: dict) -> str:
    text = body["messages"][-1]["content"]
    return ["3", "3.5", "4", "4.5", "5"][zlib.crc32(text.encode()) % 5] + "\nBecause."


def _kill_often(rows: int, kills: int, tmp_path: Path, faulty: Callable) -> None:
    """Kill the client when a drawn number of calls has come in since it started.

    All those numbers together are fewer than the rows, so every kill strikes before the work is done.
    """
    answered: Counter[str] = Counter()
    fatal = 0  # the call that ends the child, or 0
    child: subprocess.Popen

    def answer(body: dict) -> str:
        answered[body["messages"][-1]["content"]] += "Question" in str(body["messages"])
        return _answer(body)

    script = faulty(0.06, [FAULTS[name] for name in MIXED], answer, 3)

    def deadly(body: dict) -> object:
        nonlocal fatal
        if 0 < fatal <= server.calls:
            fatal = 0
            child.send_signal(signal.SIGKILL)
        return script(body)

    acknowledged, out = tmp_path / "acknowledged", tmp_path / "ratings.npy"
    acknowledged.touch()
    draw = random.Random(kills)
    with ScriptedServer(deadly, latency=0.01) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(rows), str(acknowledged), str(out)]
        for kill in [True] * kills + [False]:
            if kill:
                fatal = server.calls + draw.randint(1, rows // (kills + 1))
            child = subprocess.Popen(command, env={**os.environ}, stderr=subprocess.PIPE)
            stderr = child.communicate()[1]
            assert child.returncode == (-signal.SIGKILL if kill else 0), stderr.decode()
            _nothing_lost(acknowledged)
    assert sum(n > 0 for n in answered.values()) == rows
    # A good answer that was asked for again had been in flight at a kill.
    again = sum(answered.values()) - rows
    assert again <= kills * CONCURRENCY
    undisturbed = np.array([float(_expected(i)) for i in range(rows)])
    assert np.load(out).tobytes() == undisturbed.tobytes()


def _nothing_lost(acknowledged: Path) -> None:
    """Every rating that was handed on is in the ledger with its value; the file is whole."""
    data = acknowledged.read_bytes()
    seen = {data[i : i + 16]: float(data[i + 16 : i + 20]) for i in range(0, len(data) - 19, 20)}
    if not (home() / "ledger.sqlite").exists():
        assert not seen
        return
    ledger = Ledger(ledger_path())
    try:
        assert ledger.check() == "ok"
        found = ledger.find(seen, raw=False)
        assert {key: found[key].value for key in seen} == seen
    finally:
        ledger.close()


def _expected(i: int) -> str:
    from dfilter.llm.judge import Judge
    from dfilter.types import Example, Message

    judge = Judge(model="m", base_url="http://127.0.0.1:1/v1", name="scripted")
    row = Example(str(i), (Message("user", f"Question {i}?"), Message("assistant", f"Answer {i}.")), {})
    return _answer({"messages": judge.request(row).messages}).splitlines()[0]


@pytest.mark.kills
def test_two_kills(tmp_path: Path, faulty: Callable) -> None:
    _kill_often(400, 2, tmp_path, faulty)


@pytest.mark.kills
@pytest.mark.soak
def test_two_hundred_kills(tmp_path: Path, faulty: Callable) -> None:
    _kill_often(20_000, 200, tmp_path, faulty)
