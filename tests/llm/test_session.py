"""On real sockets: every row ends with a name, nothing is paid twice, no limit is passed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dfilter.errors import CheckError, Interrupted, ServerError, SettingsError
from dfilter.llm.answers import FINAL, STATUSES, Request
from dfilter.llm.budget import Budget
from dfilter.llm.ledger import Ledger
from dfilter.llm.scores import TextScore
from dfilter.llm.server import Server, check_url, forbidden
from dfilter.llm.session import Session, ask, ledger_path
from dfilter.store import home
from dfilter.testing import FAULTS, Say, ScriptedServer

KEY = "sk-canary-7f3a9c1e5b2d8046"


def rows_asked(server: ScriptedServer) -> int:
    """Calls for rows, without those that find out what the model accepts."""
    return sum("Reply with the digit 3" not in e.body["messages"][-1]["content"] for e in server.log)


def price(model: str, dollars_in: float, dollars_out: float) -> None:
    path = home() / "prices.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[models]\n"{model}" = {{ input = {dollars_in}, output = {dollars_out} }}\n')


def test_every_answer_comes_once_and_the_second_time_for_free(requests: Callable, quick: Callable) -> None:
    with ScriptedServer(lambda body: body["messages"][-1]["content"].split()[1]) as server:
        first = list(ask(requests(50), quick(server.url)))
        assert sorted(a.index for a in first) == list(range(50))
        assert all(a.text == str(a.index) and not a.stored for a in first)
        assert rows_asked(server) == 50
        again = list(ask(requests(60), quick(server.url)))  # the pool has grown
        assert rows_asked(server) == 60
        assert {a.index: a.text for a in again} == {i: str(i) for i in range(60)}
        assert sum(a.stored for a in again) == 50


def test_equal_keys_are_one_question(requests: Callable, quick: Callable) -> None:
    same = [next(requests(1)) for _ in range(30)]
    with ScriptedServer("4.5") as server:
        answers = list(ask(same, quick(server.url)))
    assert [a.index for a in sorted(answers, key=lambda a: a.index)] == list(range(30))
    assert rows_asked(server) == 1


@pytest.mark.serial
def test_mixed_faults_end_in_names_and_cost_nothing_the_second_time(
    requests: Callable, quick: Callable, faulty: Callable, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """30 % of the calls go wrong in every way that servers know; a canary key appears nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    script = faulty(0.3, list(FAULTS.values()))
    with ScriptedServer(script, latency=0.002) as server:
        settings = quick(
            server.url,
            key_env="OPENAI_API_KEY",
            concurrency=32,
            attempt_seconds=0.5,
            longest_pause=0.02,
            attempts=40,
        )
        answers = list(ask(requests(600), settings, reader=TextScore()))
        assert Counter(a.status for a in answers) == {"ok": 600}
        assert {a.value for a in answers} == {4.5}
        assert server.calls > 700
        before = server.calls
        assert all(a.stored for a in ask(requests(600), settings, reader=TextScore()))
        assert server.calls == before
    ledger = Ledger(ledger_path())
    assert ledger.check() == "ok"
    assert ledger.open_attempts() == 0
    ledger.close()
    _nowhere(KEY, home(), caplog.text + "".join(capfd.readouterr()))


def _nowhere(key: str, folder: Path, text: str) -> None:
    assert key not in text
    for path in folder.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path


def test_rows_that_never_succeed_are_broken_and_asked_no_more(requests: Callable, quick: Callable) -> None:
    def script(body: dict) -> Say | str:
        poor = body["messages"][-1]["content"].split()[1] in {"3", "7"}
        return Say(status=500, paid=False) if poor else "4.5"

    with ScriptedServer(script) as server:
        settings = quick(server.url, attempts=3)
        first = {a.index: a for a in ask(requests(10), settings)}
        assert {i for i, a in first.items() if a.status == "broken"} == {3, 7}
        assert "500" in first[3].reason
        calls = server.calls
        assert all(a.stored for a in ask(requests(10), settings))
        assert server.calls == calls


@pytest.mark.parametrize(
    ("say", "status"),
    [
        (Say(None, refusal="No."), "refused"),
        (Say("4", finish="length"), "truncated"),
        (Say("", finish="content_filter"), "filtered"),
        (Say("no", status=400, code="content_filter"), "filtered"),
        (Say("This model's maximum context length is 8192 tokens", status=400), "truncated"),
        (Say("no", status=413), "truncated"),
        (Say("A fine response."), "unparsed"),
        (Say("45"), "unparsed"),
        (Say("4.5", usage=False), "ok"),
    ],
)
def test_each_status_is_final(say: Say, status: str, requests: Callable, quick: Callable) -> None:
    def script(body: dict) -> Say:
        return Say("3") if "digit 3" in body["messages"][-1]["content"] else say

    with ScriptedServer(script) as server:
        (answer,) = ask(requests(1), quick(server.url), reader=TextScore())
        assert answer.status == status
        assert status in FINAL
        calls = server.calls
        (again,) = ask(requests(1), quick(server.url), reader=TextScore())
        assert (again.status, again.stored, server.calls) == (status, True, calls)
    assert len(STATUSES) == 10


@pytest.mark.parametrize(
    ("say", "sentence"),
    [
        (Say("unknown parameter: foo", status=400), "unknown parameter"),
        (Say("bad key", status=401), "answered 401: bad key.*--judge-key"),
        (Say("out of credit", status=402), "quota"),
        (Say("not yours", status=403), "answered 403: not yours.*No key was sent"),
        (Say("no such model", status=404), "--base-url"),
        (Say("You exceeded your current quota", status=429, code="insufficient_quota"), "quota is used up"),
        (Say("", status=302, headers={"location": "http://127.0.0.1:1/v1"}), "redirect"),
    ],
)
def test_what_no_retry_can_mend_stops_at_once(
    say: Say, sentence: str, requests: Callable, quick: Callable
) -> None:
    def script(body: dict) -> Say:
        return Say("3", tokens=[{"3": 1.0}]) if "digit 3" in body["messages"][-1]["content"] else say

    with ScriptedServer(script, latency=0.01) as server:
        with pytest.raises(ServerError, match=sentence):
            list(ask(requests(500), quick(server.url, concurrency=4)))
        assert rows_asked(server) <= 8


def test_a_wrong_key_that_the_server_repeats_is_not_repeated_by_us(
    requests: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedServer("4.5", key="another") as server, pytest.raises(ServerError) as caught:
        list(ask(requests(5), quick(server.url, key_env="OPENAI_API_KEY")))
    import traceback

    _nowhere(KEY, home(), "".join(traceback.format_exception(caught.value)))
    assert "[key]" in str(caught.value)


def test_a_body_that_repeats_the_key_is_kept_without_it(
    requests: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedServer(lambda _: f"4.5\nYour key is {KEY}") as server:
        answers = list(ask(requests(3), quick(server.url, key_env="OPENAI_API_KEY")))
    assert all("[key]" in a.text for a in answers)
    _nowhere(KEY, home(), repr(answers))


@pytest.mark.serial
def test_retry_after_pauses_everybody(requests: Callable, quick: Callable) -> None:
    state = {"said": False}

    def script(body: dict) -> Say | str:
        if "row 5 " in body["messages"][-1]["content"] and not state["said"]:
            state["said"] = True
            return Say(status=429, headers={"retry-after": "0.6"}, paid=False)
        return "4.5"

    with ScriptedServer(script, latency=0.01) as server:
        answers = list(ask(requests(40), quick(server.url, concurrency=4, longest_pause=60.0)))
        assert {a.status for a in answers} == {"ok"}
        (rejected,) = (e.at for e in server.log if e.status == 429)
        # What the other three had in flight still arrives, and at most one more of each that was sent before
        # the client had read the rejection; then there is silence until the pause is over.
        late = [e.at for e in server.log if rejected < e.at < rejected + 0.6]
        assert len(late) <= 2 * 3


@pytest.mark.serial
@pytest.mark.parametrize(
    ("limits", "rows"), [({"requests_per_minute": 40}, 60), ({"tokens_per_minute": 2000}, 100)]
)
def test_configured_rates_hold_in_every_window(
    limits: dict, rows: int, requests: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfilter.llm.limits.Rates.seconds", 2.0)
    monkeypatch.setattr("dfilter.llm.limits.Rates.__init__.__defaults__", (2.0,))
    with ScriptedServer("4.5", latency=0.02, window=2.0) as server:
        assert {a.status for a in ask(requests(rows), quick(server.url, **limits))} == {"ok"}
        most, tokens = server.most_in_any_window()
    if "requests_per_minute" in limits:
        assert 30 <= most <= 40
    else:
        assert 1000 <= tokens <= 2000


@pytest.mark.serial
def test_a_limit_is_learnt_from_the_servers_headers(
    requests: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfilter.llm.limits.Rates.__init__.__defaults__", (1.0,))
    headers = {"x-ratelimit-limit-requests": "30", "x-ratelimit-limit-tokens": "-1"}
    with ScriptedServer(lambda _: Say("4.5", headers=headers), window=1.0) as server:
        list(ask(requests(70), quick(server.url)))
        assert server.most_in_any_window()[0] <= 31  # the probe came before the limit was known


@pytest.mark.serial
@pytest.mark.parametrize("limit", [0.002, 0.02])
def test_max_usd_is_never_passed(limit: float, requests: Callable, quick: Callable, faulty: Callable) -> None:
    price("m", 10.0, 30.0)
    faults = [
        FAULTS[name] for name in ("500", "reset paid", "html", "truncated json", "429 zero", "hang paid")
    ]
    script = faulty(0.2, [*faults, Say("4.5", usage=False)], "4.5")
    with ScriptedServer(script, latency=0.005, price=(10.0, 30.0)) as server:
        settings = quick(server.url, concurrency=16, attempt_seconds=0.5)
        budget = Budget(limit)
        with pytest.raises(CheckError, match="--max-usd") as caught:
            list(ask(requests(400), settings, budget=budget))
        assert caught.value.exit_code == 1
        assert server.bill <= limit
        assert budget.spent <= limit
        done = len(Ledger(ledger_path()).find(i.to_bytes(16, "big") for i in range(400)))
        assert done > 0
        assert list(ask(requests(400), settings, budget=Budget(50.0)))  # the same command goes on
        assert rows_asked(server) < 400 * 1.6


def test_an_unknown_price_refuses_max_usd_and_still_counts_tokens(
    requests: Callable, quick: Callable
) -> None:
    with ScriptedServer("4.5") as server:
        with pytest.raises(SettingsError, match="price of 'm' is not in the table"):
            Session(quick(server.url), budget=Budget(1.0))
        with Session(quick(server.url)) as session:
            list(session.ask(requests(5)))
            facts = session.facts()
    assert facts["input_tokens"] > 0
    assert facts["price"] is None


@pytest.mark.serial
def test_a_dead_server_is_given_up_with_a_sentence(requests: Callable, quick: Callable) -> None:
    started = time.monotonic()
    with pytest.raises(ServerError, match="nothing answers at"):
        list(ask(requests(50), quick("http://127.0.0.1:9/v1", wait_for_server=2.0, attempts=100)))
    assert time.monotonic() - started < 10


@pytest.mark.serial
def test_a_server_that_dies_midway_is_given_up_and_what_came_in_is_kept(
    requests: Callable, quick: Callable
) -> None:
    served = {"n": 0}

    def script(_: dict) -> Say | str:
        served["n"] += 1
        return "4.5" if served["n"] <= 60 else Say(status=500, paid=False)

    with ScriptedServer(script) as server:
        settings = quick(server.url, wait_for_server=0.5, attempts=1000)
        with pytest.raises(ServerError, match="Nothing has succeeded"):
            list(ask(requests(200), settings))
        served["n"] = -10_000
        answers = list(ask(requests(200), settings))
        assert {a.status for a in answers} == {"ok"}
        assert sum(a.stored for a in answers) >= 50


@pytest.mark.parametrize(
    ("refuses", "found"),
    [
        ("temperature", {"refused": ("temperature",)}),
        ("logprobs", {}),
        ("response_format", {}),
        ("max_tokens", {"limit": "max_completion_tokens"}),
    ],
)
def test_what_a_model_accepts_is_found_out_once(
    refuses: str, found: dict, requests: Callable, quick: Callable
) -> None:
    """What no request asks for is not tried."""

    def script(body: dict) -> Say:
        if refuses in body:
            return Say(f"Unsupported parameter: '{refuses}'", status=400, paid=False)
        return Say("4.5", tokens=[{"4": 0.5, "5": 0.5}])

    usual = {"refused": (), "top_logprobs": 20, "limit": "max_tokens", "system": True, "room": 0, "lead": 0}
    with ScriptedServer(script) as server:
        with Session(quick(server.url)) as session:
            assert {a.status for a in session.ask(requests(5))} == {"ok"}
            assert session.facts()["accepts"] == usual | found
        probes = server.calls - 5
        assert probes == 1 + bool(found)
        list(ask(requests(6), quick(server.url)))
        assert server.calls == probes + 6


def test_too_many_top_logprobs_are_fewer(requests: Callable, quick: Callable) -> None:
    def script(body: dict) -> Say:
        if int(body.get("top_logprobs") or 0) > 5:
            return Say("top_logprobs must be at most 5", status=400, paid=False)
        return Say("4", tokens=[{"4": 1.0}])

    asked = [
        Request(r.key, r.messages, {"max_tokens": 1, "logprobs": True, "top_logprobs": 20})
        for r in requests(2)
    ]
    with ScriptedServer(script) as server:
        assert all(a.reply.logprobs for a in ask(asked, quick(server.url)))
        assert server.log[-1].body["top_logprobs"] == 5


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/v1",
        "http://[fe80::1]/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://[64:ff9b::a9fe:a9fe]/v1",
        "http://2852039166/v1",
        "http://0xa9fea9fe/v1",
        "http://0251.0376.0251.0376/v1",
        "http://169.254.43518/v1",
        "http://metadata.google.internal/v1",
        "http://METADATA.google.internal./v1",
        "http://100.100.100.200/v1",
        "http://[fd00:ec2::254]/v1",
        "file:///etc/passwd",
        "ftp://localhost/v1",
        "http://user:password@localhost/v1",
        "http://localhost/v1?key=1",
        "localhost:8000",
        "http:///v1",
    ],
)
def test_addresses_that_hold_credentials_are_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        check_url(url)
    with pytest.raises(SettingsError):
        Session(Server(model="m", base_url=url))


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com/v1", "http://localhost:8000/v1", "http://10.0.0.5/v1", "http://[::1]:80/v1"],
)
def test_servers_of_ones_own_are_allowed(url: str) -> None:
    check_url(url)
    assert not forbidden("127.0.0.1")


def test_a_name_that_resolves_to_a_metadata_address_is_refused_when_connecting(
    requests: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def resolve(host: str, port: int, *_: object, **__: object) -> list:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", int(port or 80)))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ServerError, match="link-local"):
        list(ask(requests(3), quick("http://innocent.example/v1")))


def test_openai_without_a_key_is_a_sentence() -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        Session(Server(model="gpt-4o-mini"))


def test_a_broken_generator_gets_its_own_error(quick: Callable) -> None:
    def broken():
        yield Request(b"k" * 16, [{"role": "user", "content": "x"}], {"max_tokens": 1})
        raise KeyError("mine")

    with ScriptedServer("4.5") as server, pytest.raises(KeyError, match="mine"):
        list(ask(broken(), quick(server.url)))


@pytest.mark.serial
def test_leaving_early_keeps_what_was_in_flight(requests: Callable, quick: Callable) -> None:
    with ScriptedServer("4.5", latency=0.2) as server:
        with Session(quick(server.url, concurrency=8)) as session:
            for answer in session.ask(requests(200)):
                assert answer.status == "ok"
                break
        asked = rows_asked(server)
        assert asked < 100
        server.latency = 0.0
        list(ask(requests(200), quick(server.url)))
        assert rows_asked(server) == 200


def test_it_runs_inside_another_event_loop(requests: Callable, quick: Callable) -> None:
    import asyncio

    async def notebook(url: str) -> int:
        return len(list(ask(requests(5), quick(url))))

    with ScriptedServer("4.5") as server:
        assert asyncio.run(notebook(server.url)) == 5


CHILD = """
import sys
from dfilter.errors import DFilterError
from dfilter.llm.answers import Request
from dfilter.llm.server import Server
from dfilter.llm.session import ask
def row(i):
    return Request(i.to_bytes(16, "big"), [{"role": "user", "content": f"row {i}"}], {"max_tokens": 8})
rows = map(row, range(2000))
try:
    for answer in ask(rows, Server(model="m", base_url=sys.argv[1], concurrency=16)):
        sys.stdout.write(f"{answer.index}\\n")
        sys.stdout.flush()
except DFilterError as error:
    sys.stderr.write(str(error))
    sys.exit(error.exit_code)
except KeyboardInterrupt:  # it came while an answer was being printed
    sys.exit(130)
"""


@pytest.mark.serial
def test_ctrl_c_drains_and_pays_for_nothing_twice(quick: Callable) -> None:
    with ScriptedServer("4.5", latency=0.3) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        assert child.stdout is not None
        for _ in range(20):
            child.stdout.readline()
        child.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, stderr = child.communicate(timeout=30)
        assert time.monotonic() - sent < 10
        assert child.returncode == Interrupted.exit_code == 130, stderr
        assert "Traceback" not in stderr
        asked = rows_asked(server)
        assert 20 <= asked < 500
        ledger = Ledger(ledger_path())
        assert ledger.count() == {"ok": asked}
        assert ledger.open_attempts() == 0
        ledger.close()


def test_two_sessions_share_a_ledger_without_harm(requests: Callable, quick: Callable) -> None:
    done: list[int] = []

    def work(url: str) -> None:
        done.append(len(list(ask(requests(100), quick(url)))))

    with ScriptedServer("4.5", latency=0.005) as server:
        threads = [threading.Thread(target=work, args=(server.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert done == [100, 100, 100]
    ledger = Ledger(ledger_path())
    assert ledger.count() == {"ok": 100}
    ledger.close()
