"""Learning what a model accepts beside all that may fail: neither is taken for the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from dfilter.llm.answers import Answer, Request
from dfilter.llm.clock import Clock
from dfilter.llm.server import Server
from dfilter.llm.session import Session
from dfilter.testing import Say, ScriptedServer

WELL = Say("4.5")
NO_TEMPERATURE = Say("temperature is not supported", status=400)


def asked(server: Server, requests: Iterable[Request], speed: float = 20.0) -> tuple[list[str], Any]:
    with Session(server, clock=Clock(speed)) as session:
        found: list[Answer] = sorted(session.ask(requests), key=lambda answer: answer.index)
        return [answer.status for answer in found], session.facts()["accepts"]


def row(body: dict) -> int:
    words = body["messages"][-1]["content"].split()
    return int(words[1]) if words[0] == "row" else -1


@pytest.mark.parametrize(
    "breaks",
    [
        Say("", status=500),
        Say("", status=502),
        Say(then="reset"),
        Say(body=b"<html>"),
        Say("half an", finish="error"),
    ],
    ids=["500", "502", "reset", "garbled", "unfinished"],
)
def test_a_parameter_at_which_the_server_breaks_is_left_out(
    breaks: Say, requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(lambda body: breaks if "temperature" in body else WELL) as server:
        statuses, accepts = asked(quick(server.url, wait_for_server=900.0), requests(20))
        assert statuses == ["ok"] * 20
        assert accepts["refused"] == ("temperature",)
        assert server.calls <= 20 + 12


@pytest.mark.parametrize(
    "away",
    [Say("", status=500), Say("", status=503), Say("", status=429), Say(then="reset")],
    ids=["500", "503", "429", "reset"],
)
@pytest.mark.parametrize("refuses", [True, False])
def test_a_server_that_is_away_at_first_is_waited_for_and_then_asked_what_it_takes(
    away: Say, refuses: bool, requests: Callable, quick: Callable
) -> None:
    def script(body: dict) -> Say:
        if server.calls <= 9:
            return away
        return NO_TEMPERATURE if refuses and "temperature" in body else WELL

    with ScriptedServer(script) as server:
        statuses, accepts = asked(quick(server.url, wait_for_server=900.0), requests(20))
        assert statuses == ["ok"] * 20
        assert accepts["refused"] == (("temperature",) if refuses else ())
        assert server.calls <= 20 + 9 + 8


def test_a_refusal_that_names_a_parameter_and_is_one_rows_own_is_that_rows(
    requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(lambda body: NO_TEMPERATURE if row(body) % 40 == 7 else WELL) as server:
        statuses, accepts = asked(quick(server.url, concurrency=4), requests(200))
        assert Counter(statuses) == {"ok": 195, "rejected": 5}
        assert accepts["refused"] == ()
        assert server.calls <= 200 + 1 + 3  # three times it is looked into, then no more


def test_a_row_in_doubt_that_is_refused_for_a_parameter_is_asked_without_it(
    requests: Callable, quick: Callable
) -> None:
    """One row fails until only it is left, and by then the model takes no temperature."""
    seen: Counter[int] = Counter()

    def script(body: dict) -> Say:
        seen[row(body)] += 1
        if row(body) == 0 and seen[0] <= 2:
            return Say("", status=502)
        return NO_TEMPERATURE if seen[0] > 2 and "temperature" in body else WELL

    with ScriptedServer(script) as server:
        statuses, _ = asked(quick(server.url, attempts=2, concurrency=4), requests(12))
        assert statuses == ["ok"] * 12
