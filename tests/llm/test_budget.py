"""A limit holds whatever runs at once, dies or starts again, as long as the server keeps its own limits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.cli import main
from dfilter.errors import CheckError, SettingsError
from dfilter.llm.accounts import Limits
from dfilter.llm.budget import Budget
from dfilter.llm.ledger import Attempt, Ending, Ledger
from dfilter.llm.prices import price_of, read_price
from dfilter.llm.session import Session, ask, ledger_path
from dfilter.llm.spend import spent
from dfilter.testing import Say, ScriptedServer

PRICE = (10.0, 30.0)
IN_OUT = "10/30"
CHILD = """
import sys
from dfilter.errors import CheckError
from dfilter.llm.answers import Request
from dfilter.llm.budget import Budget
from dfilter.llm.server import Server
from dfilter.llm.session import ask
url, name, usd, start, n = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
rows = (Request(i.to_bytes(16, "big"), [{"role": "user", "content": f"row {i} " + "x" * 400}],
                {"max_tokens": 8, "temperature": 0}) for i in range(start, start + n))
try:
    for answer in ask(rows, Server("m", url, price="10/30", concurrency=8), budget=Budget(usd, name=name)):
        pass
except CheckError as error:
    print(error)
"""


def child(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, *map(str, words)]
    return subprocess.Popen(command, env={**os.environ}, stdout=subprocess.PIPE, text=True)


CALLS = st.lists(
    st.tuples(
        st.integers(0, 1),  # which process
        st.floats(0, 1).map(lambda x: round(x, 6)),  # the most that a call may cost
        st.sampled_from(
            [None, "never ends", 0.0, 0.3, 1.0]
        ),  # the share of it that it costs, if anybody knows
    ),
    max_size=20,
)


@given(CALLS)
@settings(max_examples=15)
def test_two_processes_never_pass_what_they_share(calls: list[tuple[int, float, float | str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledgers = [Ledger(Path(folder) / "l.sqlite") for _ in range(2)]
        number, bill, limits = ledgers[0].open_budget("shared"), 0.0, Limits(usd=2.0)
        for which, worst, share in calls:
            ledger = ledgers[which]
            attempt = ledger.next_attempt()
            ledger.begin_group()
            refused = ledger.begin([Attempt(attempt, b"k", 1.0, None, number, None, worst)], limits)
            if not refused and share != "never ends":
                usd = None if share is None else worst * float(share)
                bill += worst if usd is None else usd
                ledger.end([Ending(attempt, 200, "ok", usd)])
            elif not refused:
                bill += worst
            ledger.commit()
        seen = ledgers[0].totals(number)
        assert bill <= 2.0 + 1e-9
        assert seen.usd + seen.usd_uncertain + seen.usd_reserved == pytest.approx(bill)
        for ledger in ledgers:
            ledger.close()


HOLDS = """
import sys, time
from pathlib import Path
from dfilter.llm.ledger import Attempt, Ledger
ledger = Ledger(Path(sys.argv[1]))
number, owner = ledger.open_budget("night"), ledger.open_owner()
with ledger.group():
    ledger.begin([Attempt(1, b"k", 1e9, None, number, owner, 0.75, 100)])
print("there", flush=True)
time.sleep(60)
"""


def test_what_a_process_reserved_counts_for_all_and_is_perhaps_billed_when_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    other.stdout.readline()
    ledger, mine = Ledger(path), Budget(1.0, name="night")
    mine.open(ledger)
    assert (mine.reserved, mine.totals.usd_uncertain) == (0.75, 0.0)
    assert not mine.fits(0.5)
    assert mine.may_fit(0.5)
    other.kill()
    other.communicate()
    mine.refresh(ledger)
    assert (mine.reserved, mine.totals.usd_uncertain, mine.totals.tokens_uncertain) == (0.0, 0.75, 100)
    assert not mine.may_fit(0.5)
    assert Budget(1.0).open(ledger) != mine.open(ledger)  # without a name nobody shares
    ledger.close()


def _launches(number: int, usd: float, most: int, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Launch four at a time under one budget, kill all but the last after some calls each, and add up.

    Args:
        number: of launches.
        usd: their limit.
        most: calls after which a launch is killed at the latest, unless it ended before.
        start: starts one, at a server's address.
    """
    draw = random.Random(number)
    killed = 0
    with ScriptedServer("4.5", latency=0.01, price=PRICE) as server:
        for first in range(0, number, 4):
            running = [start(server.url, launch) for launch in range(first, min(first + 4, number))]
            fatal = {one: server.calls + draw.randint(1, most) for one in running}
            if first + 4 >= number:  # the last one may go on until the limit stops it
                fatal.pop(running[-1])
            while fatal:
                for one, calls in list(fatal.items()):
                    if one.poll() is not None or server.calls >= calls:
                        killed += one.poll() is None
                        one.kill()
                        one.communicate()
                        del fatal[one]
                time.sleep(0.005)
            assert server.bill <= usd
        said, _ = running[-1].communicate(timeout=120)
        assert f"--max-usd {usd:g} stops the run" in said
        assert server.bill <= usd
    assert killed >= 2
    (seen,) = [one.totals for one in spent() if "budget" in one.of]
    assert seen.usd - 1e-9 <= server.bill <= seen.usd + seen.usd_uncertain + 1e-9


@pytest.mark.kills
def test_four_launches_killed_at_once_keep_one_limit() -> None:
    def start(url: str, launch: int) -> subprocess.Popen[str]:
        return child(url, "night", 0.4, 1000 * launch, 600)  # one alone costs more than the limit

    _launches(4, 0.4, 40, start)


@pytest.mark.kills
@pytest.mark.soak
def test_fifty_launches_in_different_folders_keep_one_limit(tmp_path: Path) -> None:
    def start(url: str, launch: int) -> subprocess.Popen[str]:
        pool = tmp_path / f"{launch}.jsonl"
        lines = (json.dumps({"prompt": f"{launch} {i}?", "response": "An answer. " * 40}) for i in range(300))
        pool.write_text("\n".join(lines))
        words = ["run", pool, "--strategy", "alpagasus", "--judge", "m", "--base-url", url, "--keep", "9"]
        words += ["--price", IN_OUT, "--max-usd", "1", "--budget", "night", "-o", tmp_path / f"run {launch}"]
        words += ["--skip-pilot", "--set", "filter.judge.concurrency=4"]
        command = [sys.executable, "-m", "dfilter", *map(str, words)]
        return subprocess.Popen(
            command, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    _launches(50, 1.0, 60, start)


def test_a_server_that_ignores_its_limits_stops_the_run(requests: Callable, quick: Callable) -> None:
    """Ninety tokens where eight were allowed: what is in flight is paid, and no more is sent."""
    usage = {"prompt_tokens": 10, "completion_tokens": 9000, "total_tokens": 9010}
    body = {"choices": [{"message": {"content": "4.5"}, "finish_reason": "stop"}], "usage": usage}

    def script(asked: dict) -> Say:
        return Say("4.5") if "digit" in str(asked) else Say("4.5", body=json.dumps(body).encode())

    with ScriptedServer(script, latency=0.02) as server:
        at, budget = quick(server.url, price=IN_OUT, concurrency=4), Budget(50.0)
        with pytest.raises(CheckError, match="takes more than its requests allow"):
            list(ask(requests(200), at, budget=budget))
        assert server.calls <= 1 + 2 * 4
        assert budget.spent == pytest.approx((server.calls - 1) * 0.2701, rel=0.01)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 40, "completion_tokens": 30, "total_tokens": 1570},
        {"prompt_tokens": 40.0, "completion_tokens": 1530.0, "total_tokens": 1570.0},
        {"prompt_tokens": 40, "completion_tokens": None, "total_tokens": 1570},
    ],
)
def test_thought_that_nobody_sees_is_reserved_and_booked(
    usage: dict, requests: Callable, quick: Callable
) -> None:
    body = {"choices": [{"message": {"content": "4.5"}, "finish_reason": "stop"}], "usage": usage}
    with ScriptedServer(lambda _: Say("4.5", body=json.dumps(body).encode())) as server:
        budget = Budget(2.0)
        with pytest.raises(CheckError, match="--max-usd 2 stops the run"):
            list(ask(requests(200), quick(server.url, price=IN_OUT), budget=budget))
        bill = server.calls * (40 * 10 + 1530 * 30) / 1e6
        assert budget.spent == pytest.approx(bill)
        assert 1.5 < bill <= 2.0


@pytest.mark.parametrize(
    ("limits", "flag"), [({"max_calls": 20}, "--max-calls 20"), ({"max_tokens": 2000}, "2000")]
)
def test_a_judge_without_a_price_has_limits_too(
    limits: dict, flag: str, requests: Callable, quick: Callable
) -> None:
    with ScriptedServer("4.5") as server:
        for usd in (None, 0.0):  # unknown is not 0; restarted, the limit is the same, and nothing is sent
            with Session(quick(server.url), budget=Budget(name="night", **limits)) as session:
                with pytest.raises(CheckError, match=flag):
                    list(session.ask(requests(200)))
                assert session.facts()["usd"] == usd
        took = sum(entry.tokens for entry in server.log)
        assert server.calls <= limits.get("max_calls", 10**6)
        assert took <= limits.get("max_tokens", 10**6)
        assert server.calls >= 10
        assert list(
            ask(requests(200), quick(server.url), budget=Budget(name="night"))
        )  # and without one it goes on


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["max_usd", "max_calls", "max_tokens"])
def test_what_is_no_amount_is_refused(what: str, limit: float) -> None:
    with pytest.raises(SettingsError, match="no amount of 0 or more"):
        Budget(**{what: limit})


@pytest.mark.parametrize("text", ["-1/2", "1", "1/2/3", "nan/1", "1/inf", "a/b", "/"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="IN/OUT"):
        read_price(text)


def test_names_are_never_guessed() -> None:
    old, new = price_of("gpt-4o-2024-05-13"), price_of("gpt-4o")
    assert old is not None
    assert new is not None
    assert (old.input, old.output) == (5.0, 15.0)
    assert (new.input, new.output) == (2.5, 10.0)
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini") != new
    for unknown in ("gpt-4o-2030-01-01", "gpt-4o-latest", "openai/gpt-4o", "ft:gpt-4o", "gpt-4"[:-1]):
        assert price_of(unknown) is None
    tiered = price_of("gpt-5.5")
    assert tiered is not None
    assert tiered.cost(300_000, 0) == pytest.approx(3.0)  # 10 a million above 272,000
    assert tiered.cost(100_000, 0) == pytest.approx(0.5)


def test_another_limit_continues_the_folder_and_the_spend_is_shown(tmp_path: Path) -> None:
    pool, out = tmp_path / "pool.jsonl", tmp_path / "run"
    lines = (json.dumps({"prompt": f"Question {i}?", "response": "An answer. " * 9}) for i in range(60))
    pool.write_text("\n".join(lines))

    def run(*more: str) -> tuple[int, str]:
        words = ["run", pool, "--strategy", "alpagasus", "--judge", "m", "--base-url", server.url, "-o", out]
        done = CliRunner().invoke(main, [*map(str, words), "--keep", "9", "--skip-pilot", *more])
        return done.exit_code, done.output

    with ScriptedServer("4.5", price=PRICE) as server:
        assert run("--max-usd=-1")[0] == run("--price=-1/2")[0] == run("--max-tokens=-1")[0] == 2
        code, said = run("--max-usd", "0.1")
        assert code == 2
        assert "--price IN/OUT" in said
        assert run("--max-usd", "0")[0] == 1
        assert server.calls == 0
        for limit in ("0.05", "0.05", "0.08"):
            code, said = run("--price", IN_OUT, "--max-usd", limit)
            assert code == 1
            assert f"--max-usd {limit} stops the run" in said
            assert server.bill <= float(limit)
        code, said = run("--price", IN_OUT, "--set", "filter.judge.concurrency=3")
        assert code == 0, said
        day, budget = spent()
        assert day.table()["usd"] == budget.table()["usd"] == pytest.approx(server.bill, abs=1e-5)
        assert day.table()["calls"] == server.calls
        assert budget.of == {"budget": str(out)}
        told = CliRunner().invoke(main, ["judge", "spend", "--json"]).output.splitlines()
        assert [json.loads(line) for line in told] == [day.table(), budget.table()]
        assert f"${server.bill:.4f}" in CliRunner().invoke(main, ["judge", "spend"]).output
    assert ledger_path().is_file()
