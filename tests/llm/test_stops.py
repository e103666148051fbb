"""A stop ends the process soon, whatever the server does, and no number of signals can hold it up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfilter.llm.ledger import Ledger
from dfilter.llm.session import ledger_path
from dfilter.testing import Say, ScriptedServer

CHILD = """
import signal, sys
signal.signal(signal.SIGTERM, signal.default_int_handler)
from dfilter.errors import DFilterError
from dfilter.llm.answers import Request
from dfilter.llm.server import Server
from dfilter.llm.session import ask
def row(i):
    return Request(i.to_bytes(16, "big"), [{"role": "user", "content": f"row {i}"}], {"max_tokens": 8})
try:
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    for answer in ask(map(row, range(3000)), Server(model="m", base_url=sys.argv[1], concurrency=16)):
        pass
except DFilterError as error:
    sys.stderr.write(str(error))
    sys.exit(error.exit_code)
except KeyboardInterrupt:  # it came before or after everything that matters
    sys.exit(130)
"""
CHILDREN: list[subprocess.Popen] = []
HANG = Say(then="hang")
WELL = Say("4.5", tokens=[{"4": 1.0}])


def is_probe(body: dict) -> bool:
    return body["messages"][-1]["content"].startswith("Reply with the digit 3")


def start(url: str) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    CHILDREN.append(child)
    assert child.stdout is not None
    child.stdout.readline()
    return child


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    while CHILDREN:
        child = CHILDREN.pop()
        child.kill()
        child.communicate()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def forgetful() -> Callable[[dict], Say]:
    """Take no token limit any more after some rows, and say nothing when asked what it takes."""
    rows = 0

    def script(body: dict) -> Say:
        nonlocal rows
        rows += not is_probe(body)
        if rows <= 20:
            return WELL
        return HANG if is_probe(body) else Say("max_tokens is not supported", status=400)

    return script


def ended(child: subprocess.Popen[str], sign: signal.Signals, within: float) -> str:
    """Send a signal that ends a process in time and in words; returns what it said."""
    child.send_signal(sign)
    sent = time.monotonic()
    _, stderr = child.communicate(timeout=30)
    assert time.monotonic() - sent < within
    assert child.returncode == 130, stderr
    assert "Traceback" not in stderr
    return stderr


SCRIPTS = {
    "learning anew hangs": None,
    "the probe hangs": lambda body: HANG if is_probe(body) else WELL,
    "every row hangs": lambda body: WELL if is_probe(body) else HANG,
    "the probe drips": lambda body: Say(then="drip") if is_probe(body) else WELL,
    "the server is down": lambda _: Say(status=503),
    "the server wants a day": lambda _: Say(status=429, headers={"retry-after": "86400"}),
}
SOON = {"the server is down"}


@pytest.mark.serial
@pytest.mark.parametrize(
    ("script", "sign"),
    [
        pytest.param(script, sign, marks=() if script in SOON else pytest.mark.slow)
        for script in SCRIPTS
        for sign in (signal.SIGTERM, signal.SIGINT)
    ],
)
def test_one_signal_ends_it_within_ten_seconds(script: str, sign: signal.Signals) -> None:
    with ScriptedServer(SCRIPTS[script] or forgetful()) as server:
        child = start(server.url)
        until(lambda: server.calls > 20 * (script == "learning anew hangs"))
        time.sleep(0.3)
        stderr = ended(child, sign, within=10)
        assert "kept" in stderr
        assert ("may be billed" in stderr) == (script not in {"the server is down", "the server wants a day"})
    ledger = Ledger(ledger_path())
    assert ledger.open_attempts() == 0
    ledger.close()


@pytest.mark.serial
@pytest.mark.parametrize("script", ["the probe hangs", "every row hangs"])
def test_a_second_signal_ends_it_at_once(script: str) -> None:
    with ScriptedServer(SCRIPTS[script]) as server:
        child = start(server.url)
        until(lambda: server.calls > (script == "every row hangs"))  # the first question is answered
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ended(child, signal.SIGTERM, within=3)


@pytest.mark.serial
@pytest.mark.parametrize("seed", range(2))
def test_signals_again_and_again_never_hold_it_up(seed: int) -> None:
    _shower(seed)


@pytest.mark.serial
@pytest.mark.soak
def test_showers_of_signals() -> None:
    for seed in range(100, 200):
        _shower(seed)


def _shower(seed: int) -> None:
    """Send signals at drawn moments around the end of the drain, where the last word may be missed."""
    draw = random.Random(seed)
    with ScriptedServer(lambda _: WELL, latency=draw.choice([0.002, 0.05, 0.4])) as server:
        child = start(server.url)
        until(lambda: server.calls > 20)
        for _ in range(draw.randint(2, 8)):
            if child.poll() is None:
                child.send_signal(draw.choice([signal.SIGINT, signal.SIGTERM]))
            time.sleep(draw.choice([0.0, 0.001, 0.01, server.latency, draw.uniform(0, 0.5)]))
        _, stderr = child.communicate(timeout=10)
        # A negative code: the signal struck when Python had left.
        assert child.returncode in {130, -signal.SIGINT, -signal.SIGTERM}, stderr


@pytest.mark.serial
@pytest.mark.slow
def test_the_command_itself_ends_when_the_server_never_answers(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        "".join(f'{{"instruction": "Question {i}?", "output": "Answer {i}."}}\n' for i in range(30))
    )
    with ScriptedServer(lambda _: HANG) as server:
        command = [sys.executable, "-m", "dfilter.cli", "run", str(pool), "-s", "alpagasus", "--judge", "m"]
        child = subprocess.Popen(
            [*command, "--base-url", server.url, "-o", str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
        )  # fmt: skip
        until(lambda: server.calls > 0, 60)
        stderr = ended(child, signal.SIGTERM, within=10)
        assert "1 request was still on the way" in stderr
        assert server.calls == 1
    assert not (tmp_path / "run" / "done").exists()
