"""Whose fault it is: rows, settings and servers that fail in every way, on real sockets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from dfilter.errors import ServerError
from dfilter.llm.answers import FINAL, Answer, Request
from dfilter.llm.clock import Clock
from dfilter.llm.server import Server
from dfilter.llm.session import Session
from dfilter.testing import Heard, Say, ScriptedServer

WELL = Say("4.5", tokens=[{"4": 1.0}])


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


BAD = {
    "unknown words": (Say("a wording that nobody knows", status=400), "rejected"),
    "403": (Say("", status=403), "rejected"),
    "404": (Say("", status=404), "rejected"),
    "422": (Say("", status=422), "rejected"),
    "501": (Say("", status=501), "rejected"),
    "413": (Say("", status=413), "truncated"),
    "filter": (Say("flagged", status=400, code="content_filter"), "filtered"),
    "500": (Say("", status=500), "broken"),
    "503": (Say("", status=503), "broken"),
    "429": (Say("", status=429), "broken"),
    "unfinished": (Say("half an ans", finish="error"), "broken"),
    "html": (Say(body=b"<html>"), "broken"),
    "reset": (Say(then="reset"), "broken"),
}
QUICK = {("unknown words", 0), ("500", 99), ("unfinished", 199)}


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        pytest.param(kind, bad, marks=() if (kind, bad) in QUICK else pytest.mark.slow)
        for kind in BAD
        for bad in (0, 99, 199)
    ],
)
def test_one_bad_row_is_named_and_stops_nobody(
    kind: str, bad: int, requests: Callable, quick: Callable
) -> None:
    say, status = BAD[kind]
    with ScriptedServer(bad_rows({bad}, say)) as server:
        found = asked(quick(server.url, concurrency=16), requests(200), speed=20)
        assert {i: a.status for i, a in found.items() if a.status != "ok"} == {bad: status}
        assert len(found) == 200
        assert found[bad].reason
        assert status in FINAL
        assert rows(server).count(bad) <= (20 if kind == "429" else 9)
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


@pytest.mark.parametrize(("status", "bad"), [(401, 0), (402, 10), (407, 20)])
def test_what_is_the_accounts_stops_at_once(
    status: int, bad: int, requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(bad_rows({bad}, Say("said so", status=status, paid=False))) as server:
        with pytest.raises(ServerError, match="said so"):
            asked(quick(server.url, concurrency=4), requests(100))
        assert rows(server).count(bad) == 1
        assert len(rows(server)) <= bad + 8


@pytest.mark.parametrize("status", [401, 402, 403])
def test_the_account_costs_one_call(status: int, requests: Callable, quick: Callable) -> None:
    """Whether the first request finds out what the model accepts, or that is known already."""
    well = True
    with ScriptedServer(
        lambda _: WELL if well else Say("no", status=status, code="payment_required")
    ) as server:
        asked(quick(server.url), requests(1))
        well = False
        for model in ("m", "another"):
            before = server.calls
            with pytest.raises(ServerError, match="no"):
                asked(quick(server.url, model=model), requests(300, 10))
            assert server.calls == before + 1


def test_a_setting_stops_the_run_after_few_rows_with_the_servers_words(
    requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(bad_rows(set(range(1000)), Say("max_tokens is 7 at most", status=400))) as server:
        with pytest.raises(ServerError, match=r"max_tokens is 7 at most.*5 different rows.*setting's fault"):
            asked(quick(server.url, concurrency=8), requests(1000))
        assert 5 <= len(rows(server)) <= 5 + 8


def test_a_model_that_is_taken_away_midway_stops_the_run_and_blames_no_row(
    requests: Callable, quick: Callable
) -> None:
    calls = 0

    def script(_: dict) -> Say:
        nonlocal calls
        calls += 1
        return WELL if calls <= 100 else Say("The model 'm' does not exist", status=404)

    with ScriptedServer(script, latency=0.01) as server:
        with pytest.raises(ServerError, match="does not exist"):
            asked(quick(server.url, concurrency=16), requests(400))
        assert calls < 150
        calls = -1000
        assert {a.status for a in asked(quick(server.url), requests(400)).values()} == {"ok"}


@pytest.mark.parametrize(
    "say",
    [
        Say("boom", status=500),
        pytest.param(Say(body=b"<html>"), marks=pytest.mark.slow),
        pytest.param(Say(then="reset"), marks=pytest.mark.slow),
    ],
    ids=["500", "html", "reset"],
)
def test_ten_rows_of_five_hundred_that_always_fail_end_the_run_well(
    say: Say, requests: Callable, quick: Callable
) -> None:
    bad = set(range(5, 500, 50))
    with ScriptedServer(bad_rows(bad, say)) as server:
        found = asked(quick(server.url, concurrency=32, first_wait=0.5), requests(500), speed=40)
        assert {i for i, a in found.items() if a.status == "broken"} == bad
        assert {a.status for i, a in found.items() if i not in bad} == {"ok"}
        assert server.calls <= 490 + 10 * 9 + 10
        before = server.calls
        asked(quick(server.url), requests(500))
        assert server.calls == before


def test_rows_that_failed_in_an_earlier_run_do_not_make_the_server_down(
    requests: Callable, quick: Callable
) -> None:
    """A ledger of an earlier version holds rows as failed; nothing else is left that could succeed."""
    from dfilter.llm.ledger import Ending, Ledger, Stored
    from dfilter.llm.session import ledger_path

    nan, bad = float("nan"), range(20)
    none = ("failed", nan, nan, "", "", None, "", None, None, None, nan)
    ledger = Ledger(ledger_path())
    ledger.begin_group()
    ledger.end([Ending(0, 500, "500", None, Stored(i.to_bytes(16, "big"), *none)) for i in bad])
    ledger.commit()
    ledger.close()
    with ScriptedServer(bad_rows(set(bad), Say("boom", status=500))) as server:
        asked(quick(server.url), list(requests(30))[20:])
        told = Heard()
        found = asked(quick(server.url, attempts=3), requests(30), speed=20, progress=told)
        assert {i for i, a in found.items() if a.status == "broken"} == set(bad)
        assert not any("is down" in line for line in told.lines)


def test_a_row_that_takes_the_server_down_with_it_is_found_out(requests: Callable, quick: Callable) -> None:
    """Row 7 kills the server, which is back soon; everybody who was in flight then is innocent."""
    state = {"until": 0.0}

    def script(body: dict) -> Say:
        if number(body) == 7:
            state["until"] = time.monotonic() + 0.05
        return Say(then="reset") if time.monotonic() < state["until"] else WELL

    with ScriptedServer(script, latency=0.005) as server:
        settings = quick(server.url, concurrency=16, wait_for_server=900.0)
        found = asked(settings, requests(300), speed=20)
        assert {i for i, a in found.items() if a.status == "broken"} == {7}
        assert {a.status for i, a in found.items() if i != 7} == {"ok"}
        assert rows(server).count(7) <= 24


@pytest.mark.slow
def test_a_server_that_answers_the_test_question_alone_breaks_no_row(
    requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(lambda body: WELL if number(body) < 0 else Say("no memory", status=500)) as server:
        with pytest.raises(ServerError, match=r"not one of the rows.*no memory"):
            asked(quick(server.url, attempts=2, wait_for_server=900.0), requests(30), speed=200)
        assert server.calls < 250
