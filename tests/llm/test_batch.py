"""Batches: the same keys as live calls, everything harvested, only what is missing sent again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from dfilter.errors import CheckError, ServerError
from dfilter.llm.batch import BatchSession
from dfilter.llm.batch_size import Size
from dfilter.llm.budget import Budget
from dfilter.llm.ledger import Ledger
from dfilter.llm.prices import price_of
from dfilter.llm.scores import TextScore
from dfilter.llm.scripted import count
from dfilter.llm.session import ask, ledger_path
from dfilter.store import home
from dfilter.testing import Say, ScriptedServer

ABOUT = {"kind": "test"}


def collect(server, requests, most_rows: int = 50_000, **settings):
    with BatchSession(server, most_rows=most_rows, **settings) as session:
        return sorted(session.ask(requests, reader=TextScore(), asker=ABOUT), key=lambda a: a.index)


def test_a_batch_answers_in_chunks_and_live_calls_find_its_answers(
    requests: Callable, quick: Callable
) -> None:
    with ScriptedServer(lambda b: str(int(b["messages"][-1]["content"].split()[1]) % 5)) as server:
        settings = quick(server.url, poll_seconds=0.01)
        answers = collect(settings, requests(25), most_rows=10)
        assert [a.value for a in answers] == [i % 5 for i in range(25)]
        assert sorted(
            len(f.splitlines()) for n, f in server.batches.files.items() if b'"method"' in f[:200]
        ) == [5, 10, 10]
        assert server.calls == 25
        assert all(a.stored for a in collect(settings, requests(25)))
        assert all(a.stored for a in ask(requests(25), settings, reader=TextScore()))
        assert server.calls == 25  # live calls find them, without even a probe


def test_half_the_price_is_billed_and_booked(requests: Callable, quick: Callable) -> None:
    home().mkdir(parents=True, exist_ok=True)
    (home() / "prices.toml").write_text('[models]\n"m" = { input = 10.0, output = 30.0 }\n')
    with ScriptedServer("4.5", price=(10.0, 30.0)) as server:
        settings, budget = quick(server.url, poll_seconds=0.01), Budget(1.0)
        collect(settings, requests(20), budget=budget)
        assert budget.spent == pytest.approx(server.bill)
        assert budget.reserved == 0.0
        with pytest.raises(CheckError, match="--max-usd"):
            collect(settings, requests(500, start=100), budget=Budget(0.01))


def test_only_what_came_back_in_no_file_is_sent_again(requests: Callable, quick: Callable) -> None:
    """40 % expire in the first turn, one row is lost altogether, one is refused for good."""

    failed: list[str] = []

    def script(body: dict) -> Say | str:
        row = body["messages"][-1]["content"].split()[1]
        if row == "3":
            return Say("no", status=400, code="content_filter", paid=False)
        if row == "4" and not failed:
            failed.append(row)
            return Say(status=500, paid=False)
        return "4.5"

    with ScriptedServer(script) as server:
        server.batches.expire = 0.4
        server.batches.lose = {(2).to_bytes(16, "big").hex()}
        answers = collect(quick(server.url, poll_seconds=0.01), requests(20))
        status = {a.index: a.status for a in answers}
        assert status.pop(3) == "filtered"
        assert status.pop(2) == "failed"
        assert set(status.values()) == {"ok"}
        asked = [e.body["messages"][-1]["content"].split()[1] for e in server.log]
        times = {row: asked.count(row) for row in set(asked)}
        assert times == {str(i): 1 + (i == 4) for i in range(20) if i != 2}
        server.batches.lose, server.batches.expire = set(), 0.0
        again = collect(quick(server.url, poll_seconds=0.01), requests(20))
        assert [a.index for a in again if not a.stored] == [2]  # failed is asked again by the next run
    ledger = Ledger(ledger_path())
    assert ledger.open_attempts() == 0
    ledger.close()


def test_a_refused_batch_is_a_sentence(requests: Callable, quick: Callable) -> None:
    with (
        ScriptedServer("4.5", max_batch=5) as server,
        pytest.raises(ServerError, match="more than 5 requests"),
    ):
        collect(quick(server.url, poll_seconds=0.01), requests(20))


CHILD = """
import sys
from dfilter.llm.answers import Request
from dfilter.llm.batch import BatchSession
from dfilter.llm.batch_size import Size
from dfilter.llm.server import Server
def row(i):
    return Request(bytes([i]) * 16, [{"role": "user", "content": f"row {i} "}], {"max_tokens": 8})
rows = map(row, range(40))
with BatchSession(Server(model="m", base_url=sys.argv[1], poll_seconds=0.02), most_rows=10) as session:
    print(len(list(session.ask(rows, asker={"kind": "test"}))))
"""


@pytest.mark.kills
def test_killed_while_waiting_a_run_takes_its_batches_up_again(quick: Callable) -> None:
    with ScriptedServer("4.5") as server:
        server.batches.polls = 10**9
        command = [sys.executable, "-c", CHILD, server.url]
        child = subprocess.Popen(command, env={**os.environ}, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.batches.batches) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)  # perhaps between creating a batch and noting its id
        child.wait()
        server.batches.polls = 2
        done = subprocess.run(
            command, env={**os.environ}, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip() == "40"
        assert server.calls == 40  # every row once


def test_files_carry_what_the_api_asks_for(requests: Callable, quick: Callable) -> None:
    with ScriptedServer("4.5") as server:
        collect(quick(server.url, poll_seconds=0.01), requests(2))
        (content,) = [f for f in server.batches.files.values() if b'"method"' in f[:200]]
    line = json.loads(content.splitlines()[0])
    assert line["custom_id"] == (0).to_bytes(16, "big").hex()
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"]["model"] == "m"


def test_a_row_that_a_batch_refuses_is_its_own_where_others_were_answered(
    requests: Callable, quick: Callable
) -> None:
    taken = True

    def script(body: dict) -> Say:
        refused = not taken or body["messages"][-1]["content"].startswith("row 3 ")
        return Say("a wording that nobody knows", status=400) if refused else Say("4.5")

    with ScriptedServer(script) as server:
        settings = quick(server.url, poll_seconds=0.01)
        answers = collect(settings, requests(10))
        assert [a.index for a in answers if a.status != "ok"] == [3]
        assert answers[3].status == "rejected"
        assert "a wording that nobody knows" in answers[3].reason
        calls = server.calls
        assert collect(settings, requests(10))[3].stored
        assert server.calls == calls
        taken = False  # where none was answered, nobody knows whose fault it is
        assert {a.status for a in collect(settings, requests(5, start=100))} == {"failed"}


def test_no_more_waits_at_the_server_than_its_tier_allows(requests: Callable, quick: Callable) -> None:
    with ScriptedServer("4.5") as server:
        batches, waiting, create = server.batches, [], server.batches._create

        def counted(asked: dict) -> tuple[int, bytes]:
            made = create(asked)
            under_way = [one["shown"] for one in batches.batches.values()]
            files = [one["input_file_id"] for one in under_way if one["status"] == "in_progress"]
            bodies = [json.loads(line)["body"] for file in files for line in batches.files[file].splitlines()]
            waiting.append(sum(count(body) + body["max_tokens"] for body in bodies))
            return made

        batches._create = counted  # type: ignore[method-assign]
        settings = quick(server.url, poll_seconds=0.01, batch_tokens=1500)
        answers = collect(settings, requests(40))
        assert {a.status for a in answers} == {"ok"}
        assert server.calls == 40
        assert len(waiting) > 3
        assert max(waiting) <= 1500
        with pytest.raises(ServerError, match="no room in batch_tokens = 20"):
            collect(quick(server.url, batch_tokens=20), requests(1, start=100))


def test_a_budget_pays_for_as_many_batches_as_it_can(requests: Callable, quick: Callable) -> None:
    """The worst case of all rows is more than the limit, what they cost is less."""
    with ScriptedServer("4.5", price=(10.0, 30.0)) as server:
        settings = quick(server.url, poll_seconds=0.01, price="10/30")
        worst = 60 * Size(price_of("m", "10/30")).worst(b"x" * 250, 8)[0]
        budget = Budget(worst / 2, name="night")
        answers = collect(settings, requests(60), budget=budget)
        assert len(answers) == 60
        assert budget.spent == pytest.approx(server.bill)
        assert server.bill < worst / 2
        assert len(server.batches.batches) > 1
        with pytest.raises(CheckError, match="--max-usd"):
            collect(settings, requests(500, start=100), budget=budget)
        assert server.bill <= worst / 2


@pytest.mark.parametrize("kind", ["null", "code", "string", "upper"])
def test_a_row_is_read_by_its_id_with_its_errors_reason(
    kind: str, requests: Callable, quick: Callable
) -> None:
    """Every third row comes back with an error alone, or in a form of some server's own."""
    said = {"message": "The prompt was flagged.", "code": 400 if kind == "code" else "invalid_request_error"}
    with ScriptedServer("4.5") as server:
        put = server.batches._put

        def changed(lines: list[dict]) -> str | None:
            for line in lines:
                if int(line["custom_id"], 16) % 3 or not line.get("response"):
                    continue
                if kind in {"null", "code"}:
                    line |= {"response": None, "error": said}
                elif kind == "string":
                    line["response"]["body"] = json.dumps(line["response"]["body"])
                    line["response"]["status_code"] = str(line["response"]["status_code"])
                else:
                    line["custom_id"] = line["custom_id"].upper()
            return put(lines)

        server.batches._put = changed  # type: ignore[method-assign]
        settings = quick(server.url, poll_seconds=0.01)
        answers = collect(settings, requests(12))
        calls = server.calls
        refused = [a.index for a in answers if a.status != "ok"]
        assert refused == ([0, 3, 6, 9] if kind in {"null", "code"} else [])
        assert all("The prompt was flagged" in answers[i].reason for i in refused)
        assert len(collect(settings, requests(12))) == 12
        assert server.calls == calls  # none is sent twice
