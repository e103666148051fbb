"""Whose fault it is: rows, settings and servers that fail in every way, on real sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from dfilter.errors import ServerError
from dfilter.llm.answers import FINAL, Answer, Request
from dfilter.llm.clock import Clock
from dfilter.llm.server import Server
from dfilter.llm.session import Session
from dfilter.progress import Silent
from dfilter.testing import Say, ScriptedServer

WELL = Say("4.5", tokens=[{"4": 1.0}])


class Told(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def number(body: dict) -> int:
    words = body["messages"][-1]["content"].split()
    return int(words[1]) if words[0] == "row" else -1


def asked(server: Server, requests: Iterable[Request], speed: float = 1.0, **more: Any) -> dict[int, Answer]:
    with Session(server, clock=Clock(speed), **more) as session:
        return {a.index: a for a in session.ask(requests)}


def rows(server: ScriptedServer) -> list[int]:
    return [number(e.body) for e in server.log if number(e.body) >= 0]


def bad_rows(bad: set[int], say: Say) -> Callable[[dict], Say]:
    return lambda body: say if number(body) in bad else WELL


@pytest.mark.parametrize("bad", [0, 99, 199], ids=["first", "hundredth", "last"])
@pytest.mark.parametrize(
    ("say", "status"),
    [
        (Say("a wording that nobody knows", status=400), "rejected"),
        (Say("", status=403), "rejected"),
        (Say("", status=404), "rejected"),
        (Say("", status=422), "rejected"),
        (Say("", status=451), "rejected"),
        (Say("", status=501), "rejected"),
        (Say("", status=413), "truncated"),
        (Say("flagged", status=400, code="content_filter"), "filtered"),
        (Say("", status=500), "broken"),
        (Say("", status=503), "broken"),
        (Say("half an ans", finish="error"), "broken"),
        (Say(body=b"<html>"), "broken"),
        (Say(then="reset"), "broken"),
    ],
    ids=str,
)
def test_one_bad_row_is_named_and_stops_nobody(
    bad: int, say: Say, status: str, requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(bad_rows({bad}, say)) as server:
        found = asked(quick(server.url, concurrency=16), requests(200), speed=20)
        assert {i: a.status for i, a in found.items() if a.status != "ok"} == {bad: status}
        assert len(found) == 200
        assert found[bad].reason
        assert status in FINAL
        assert rows(server).count(bad) <= 9
        calls = server.calls
        assert asked(quick(server.url), requests(200))[bad].stored
        assert server.calls == calls


def test_every_status_on_some_row_is_the_rows_own(requests: Callable, quick: Callable) -> None:
    """Every fifth row gets a status of its own, from 400 to 599."""
    stops, again = {401, 402, 407}, {408, 409, 423, 424, 425, 440, 444, 460, 499}
    statuses = [status for status in range(400, 600) if status not in stops]
    says = {5 * i: Say("said so", status=status, paid=False) for i, status in enumerate(statuses)}
    with ScriptedServer(lambda body: says.get(number(body), WELL)) as server:
        settings = quick(
            server.url, concurrency=16, longest_pause=0.01, row_seconds=9000.0, wait_for_server=900.0
        )
        found = asked(settings, requests(1000), speed=20)
        assert {a.status for i, a in found.items() if i not in says} == {"ok"}
        assert all("said so" in found[i].reason for i in says)
        for i, status in zip(says, statuses, strict=True):
            broken = status in {429, 529} | again or (status >= 500 and status not in {501, 505})
            assert found[i].status == "truncated" if status == 413 else "broken" if broken else "rejected", (
                status
            )
        assert max(Counter(rows(server)).values()) <= 250


@pytest.mark.parametrize("bad", [0, 10, 20])
@pytest.mark.parametrize("status", [401, 402, 407])
def test_what_is_the_accounts_stops_at_once(
    status: int, bad: int, requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(bad_rows({bad}, Say("said so", status=status, paid=False))) as server:
        with pytest.raises(ServerError, match="said so"):
            asked(quick(server.url, concurrency=4), requests(100))
        assert rows(server).count(bad) == 1
        assert len(rows(server)) <= bad + 8
