"""Servers that go away and come back: waited for, with few calls, and nobody's rating the worse for it."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from dfilter.errors import ServerError
from dfilter.llm.clock import Clock
from dfilter.llm.scores import TextScore
from dfilter.llm.session import Session
from dfilter.testing import Heard, Say, ScriptedServer

LOST = {
    "503": Say(status=503, paid=False),
    "500": Say(status=500, paid=False),
    "502 html": Say(status=502, body=b"<html>Bad Gateway</html>", paid=False),
    "reset": Say(then="reset", paid=False),
    "429": Say(status=429, paid=False),
    "abort": Say("4", finish="abort", paid=False),
}


def rating(body: dict) -> Say:
    text = body["messages"][-1]["content"]
    return Say(["3", "3.5", "4", "4.5", "5"][zlib.crc32(text.encode()) % 5], tokens=[{"4": 1.0}])


class Outage:
    """A script that says something else for some seconds, from the given call on."""

    def __init__(self, call: int, seconds: float, say: Say) -> None:
        self.call, self.seconds, self.say = call, seconds, say
        self.calls = self.lost = 0
        self.until = float("inf")

    def __call__(self, body: dict) -> Say:
        self.calls += 1
        if self.calls == self.call:
            self.until = time.monotonic() + self.seconds
        if self.calls >= self.call and time.monotonic() < self.until:
            self.lost += 1
            return self.say
        return rating(body)


def values(
    requests: Any, settings: Any, speed: float = 1.0, progress: Any = None
) -> dict[int, tuple[str, float]]:
    with Session(settings, clock=Clock(speed), progress=progress) as session:
        return {a.index: (a.status, a.value) for a in session.ask(requests, reader=TextScore())}


@pytest.mark.serial
@pytest.mark.parametrize(
    ("kind", "seconds", "most"),
    [
        ("503", 75, 70),
        ("429", 75, 70),
        ("reset", 600, 150),
        *(
            pytest.param(kind, 75, 70, marks=pytest.mark.slow)
            for kind in ("500", "502 html", "reset", "abort")
        ),
        pytest.param("503", 600, 150, marks=pytest.mark.slow),
    ],
)
def test_an_outage_changes_nothing_and_costs_few_calls(
    kind: str, seconds: float, most: int, requests: Callable, quick: Callable
) -> None:
    speed, told = seconds / 0.8, Heard()
    script = Outage(150, seconds / speed, LOST[kind])
    with ScriptedServer(script, latency=0.001) as server:
        settings = quick(
            server.url, concurrency=32, first_wait=0.5, attempt_seconds=9000.0, row_seconds=90000.0,
            longest_pause=3600.0, wait_for_server=3600.0,
        )  # fmt: skip
        found = values(requests(400), settings, speed, told)
        assert script.lost <= most + 32
    with ScriptedServer(rating) as quiet:
        assert found == values(requests(400), quick(quiet.url))
    said = " ".join([*told.lines, *told.notes])
    assert ("wants a pause until" if kind == "429" else "is down since") in said


@pytest.mark.serial
def test_a_server_that_is_restarted_is_found_again(requests: Callable, quick: Callable) -> None:
    first = ScriptedServer(rating, latency=0.002)
    with first:
        port = first.port
        settings = quick(
            first.url, concurrency=16, first_wait=0.5, attempt_seconds=900.0, wait_for_server=900.0
        )
        found: dict = {}
        told = Heard()
        work = threading.Thread(target=lambda: found.update(values(requests(2000), settings, 60.0, told)))
        work.start()
        while first.calls < 300:
            time.sleep(0.01)
    time.sleep(1.0)  # a minute of the client's
    with ScriptedServer(rating, port=port) as second:
        work.join()
        assert second.calls < 2000
    assert {status for status, _ in found.values()} == {"ok"}
    assert len(found) == 2000
    assert any("nothing answers at" in line and "one request is tried" in line for line in told.notes)


@pytest.mark.serial
def test_a_server_that_stays_away_ends_the_run_with_few_calls_and_a_sentence(
    requests: Callable, quick: Callable
) -> None:
    script = Outage(100, 9000.0, Say(status=503, paid=False))
    with ScriptedServer(script) as server:
        settings = quick(
            server.url, concurrency=16, first_wait=0.5, attempt_seconds=9e4, wait_for_server=3600.0
        )
        with pytest.raises(ServerError, match="--wait-for-server") as caught:
            values(requests(400), settings, 3000.0)
        assert caught.value.exit_code == 1
        assert "1 h 0" in str(caught.value)
        assert script.lost < 600
        script.until = 0.0
        assert len(values(requests(400), settings)) == 400


@pytest.mark.serial
def test_a_pause_that_was_asked_for_is_no_failure_however_often(requests: Callable, quick: Callable) -> None:
    """A quota that opens after 75 s says 35 s each time; then 30 of them pass, again and again."""
    speed, state = 300.0, {"left": 30, "shut": 0.0, "refused": 0}

    def script(body: dict) -> Say:
        if time.monotonic() < state["shut"]:
            state["refused"] += 1
            return Say("slow down", status=429, headers={"retry-after": "35"}, paid=False)
        state["left"] -= 1
        if not state["left"]:
            state["left"], state["shut"] = 30, time.monotonic() + 75 / speed
        return rating(body)

    with ScriptedServer(script, latency=0.001) as server:
        settings = quick(
            server.url,
            concurrency=16,
            attempts=2,
            attempt_seconds=900.0,
            longest_pause=3600.0,
            wait_for_server=20.0,
        )
        found = values(requests(150), settings, speed)
    assert {status for status, _ in found.values()} == {"ok"}
    assert state["refused"] <= 5 * (16 + 3)
