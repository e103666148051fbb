"""Two processes on the same rows share the work: each row is asked by one of them, both have its answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dfilter.llm.ledger import Ledger
from dfilter.llm.session import ledger_path
from dfilter.testing import ScriptedServer

CHILD = """
import sys
from dfilter.llm.answers import Request
from dfilter.llm.server import Server
from dfilter.llm.session import Session
rows = (Request(i.to_bytes(16, "big"), [{"role": "user", "content": f"row {i} "}], {"max_tokens": 8})
        for i in range(int(sys.argv[2])))
with Session(Server("m", sys.argv[1], concurrency=8, name="shared")) as session:
    answers = list(session.ask(rows))
    print(sorted(a.index for a in answers if a.status == "ok") == list(range(int(sys.argv[2]))))
"""


def start(url: str, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, url, str(rows)]
    return subprocess.Popen(command, env={**os.environ}, stdout=subprocess.PIPE, text=True)


def asked(server: ScriptedServer) -> list[str]:
    texts = [entry.body["messages"][-1]["content"] for entry in server.log]
    return [text for text in texts if text.startswith("row")]


@pytest.mark.kills
def test_two_processes_ask_every_row_once_and_both_have_all_answers() -> None:
    with ScriptedServer("4.5", latency=0.03) as server:
        both = [start(server.url, 300) for _ in range(2)]
        said = [one.communicate(timeout=120)[0].strip() for one in both]
        assert said == ["True", "True"]
        assert len(asked(server)) == len(set(asked(server))) == 300


@pytest.mark.kills
@pytest.mark.slow
def test_what_a_dead_process_was_asking_is_asked_by_the_other() -> None:
    with ScriptedServer("4.5", latency=0.4) as server:
        first = start(server.url, 60)
        while len(asked(server)) < 12:
            time.sleep(0.01)
        second = start(server.url, 60)
        time.sleep(1.0)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert second.communicate(timeout=120)[0].strip() == "True"
        assert 60 <= len(asked(server)) <= 60 + 8
    ledger = Ledger(ledger_path())
    assert ledger.open_attempts() == 0
    ledger.close()
