"""Nothing is final for ever: what a judge answered is asked again, or forgotten, on the command line."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dfilter.cli import main
from dfilter.compare import compare
from dfilter.llm.ledger import Ending, Ledger, Stored
from dfilter.llm.session import ledger_path
from dfilter.llm.verdicts import Choice, ask_again, asked_again_since, forget
from dfilter.run_folder import read_manifest
from dfilter.testing import Say, ScriptedServer

ROWS = 40
PARTS = Path(__file__).with_name("compare_parts.py")
BAD = {1: Say("hm"), 2: Say("Sorry.", refusal="no"), 3: Say("", finish="length"), 4: Say("no", status=400)}
STATUS = {1: "unparsed", 2: "refused", 3: "truncated", 4: "rejected"}


def number(body: Mapping[str, Any]) -> int:
    text = body["messages"][-1]["content"]
    found = re.search(r"Question (\d+)\?", text)
    return int(found[1]) if found and f"Answer {found[1]}." in text else -1


def well(body: Mapping[str, Any]) -> Say:
    return Say(["3", "3.5", "4", "4.5", "5"][number(body) % 5])


def with_bad_rows(body: Mapping[str, Any]) -> Say:
    return BAD.get(number(body)) or well(body)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.jsonl"
    rows = [{"id": f"r{i}", "instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dfilter(*words: Any, answer: str | None = None) -> str:
    """Run a command and return its exit code and what it said."""
    result = CliRunner().invoke(main, [*map(str, words)], input=answer, catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


def run(server: ScriptedServer, data: Path, out: Path) -> str:
    words = ("run", data, "-s", "alpagasus", "--judge", "m", "--base-url", server.url, "--judge-name", "mine")
    return dfilter(*words, "-o", out, "--set", "judge.judge.first_wait=0.01")


def statuses() -> dict[str, int]:
    book = Ledger(ledger_path())
    try:
        return book.count()
    finally:
        book.close()


def asked(server: ScriptedServer) -> Counter[int]:
    return Counter(n for entry in server.log if (n := number(entry.body)) >= 0)


@pytest.mark.parametrize("how", ["retry", "forget"])
def test_the_same_command_asks_again_for_what_was_taken_back_and_nothing_else(
    how: str, pool: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with ScriptedServer(with_bad_rows, price=(1.0, 1.0)) as server:
        assert run(server, pool, out).startswith("0")
        facts = read_manifest(out)["facts"]["judge"]["judges"][0]
        assert {name: facts["statuses"][name] for name in STATUS.values()} == dict.fromkeys(
            STATUS.values(), 1
        )
        server.script = well
        server.log.clear()
        assert "finished already" in run(server, pool, out)
        said = dfilter("judge", how, "--status", "unparsed,refused", "--status", "refused by the server")
        assert said.startswith("0"), said
        assert re.search(
            r"rating by m, text at mine: 6 of 96 answers are .*2 refused, 2 rejected, 2 unparsed", said
        )
        ended = run(server, pool, out)
        assert ended.startswith("0")
        assert "is made again" in ended
        assert set(asked(server)) == {1, 2, 4}
        left = read_manifest(out)["facts"]["judge"]["judges"][0]["statuses"]
        assert left == {"ok": ROWS - 1, "truncated": 1}
        server.log.clear()
        assert "finished already" in run(server, pool, out)
        assert not server.log
    kept = {json.loads(line)["id"] for line in (out / "selected.jsonl").read_text().splitlines()}
    assert {"r4"} == kept & {"r1", "r2", "r3", "r4"}  # 5 of 5 at last; 3.5 and 4 stay below


def test_an_answer_that_is_asked_again_stays_until_a_new_one_is_in(pool: Path, tmp_path: Path) -> None:
    with ScriptedServer(with_bad_rows) as server:
        run(server, pool, tmp_path / "run")
        before = statuses()
        assert "6 of 96" not in dfilter("judge", "retry", "--status", "unparsed,refused", "--dry-run")
        assert "finished already" in run(server, pool, tmp_path / "run")
        assert "4 of 96 answers are asked for again" in dfilter(
            "judge", "retry", "--status", "unparsed,refused"
        )
        assert "No stored answers match" in dfilter("judge", "retry", "--status", "unparsed,refused")
        kept = (tmp_path / "run" / "manifest.json").read_bytes()
        server.script = lambda _: Say("The key is gone.", status=401)
        assert run(server, pool, tmp_path / "run").startswith("1")
        assert statuses() == before
        assert (tmp_path / "run" / "manifest.json").read_bytes() == kept
        server.script = well
        assert run(server, pool, tmp_path / "run").startswith("0")
    assert statuses() == {"ok": 92, "truncated": 2, "rejected": 2}


def test_only_an_answer_replaces_one_that_is_to_be_asked_again(tmp_path: Path) -> None:
    book, key = Ledger(tmp_path / "ledger.sqlite"), b"k" * 16
    who = book.asker("ab" * 8, {"kind": "rating", "model": "m", "server": "mine"})

    def answer(status: str, value: float = math.nan) -> dict[bytes, Stored]:
        stored = Stored(key, status, value, math.nan, "", "score/2", None, "m", None, None, None, 0.1)
        book.end([Ending(1, 200, status, None, stored, who)])
        return book.find([key])

    assert answer("broken")[key].status == "broken"
    assert answer("ok", 4.0)[key].status == "broken"
    assert not book.failed([key])
    ask_again(book, Choice(("broken",)))
    assert not book.find([key])
    assert book.failed([key]) == {key}  # that it fails again tells nothing of the server
    assert not answer("failed")
    assert book.count() == {"broken": 1}
    assert answer("unparsed")[key].status == "unparsed"
    assert answer("ok", 4.0)[key].status == "unparsed"
    forget(book, Choice(judge="mine"))
    assert book.count() == {}
    assert answer("ok", 4.0)[key].value == 4.0
    assert answer("ok", 5.0)[key].value == 4.0
    book.close()
    assert asked_again_since(0.0, ledger=tmp_path / "ledger.sqlite") == {key}
    assert asked_again_since(time.time(), ledger=tmp_path / "ledger.sqlite") == set()


def test_readable_answers_are_taken_only_where_that_is_said(pool: Path, tmp_path: Path) -> None:
    with ScriptedServer(with_bad_rows) as server:
        run(server, pool, tmp_path / "run")
    before = statuses()
    for how in ("forget", "retry"):
        for words, answer in (
            ((), None),
            ((), "n\n"),
            (("--judge", "other", "--yes"), None),
            (("--dry-run",), ""),
        ):
            said = dfilter("judge", how, "--status", "ok", *words, answer=answer)
            assert statuses() == before
            assert said.startswith("0" if words else "1")
    assert "88 of 96 answers are forgotten" in dfilter("judge", "forget", "--status", "ok", "--yes")
    assert statuses() == dict.fromkeys(STATUS.values(), 2)
    assert "asked for again" in dfilter("judge", "retry", "--status", "cut,refused", "--judge", "mine")


@pytest.mark.parametrize(
    ("given", "said"), [("", "Name what is meant"), ("lost", "no status 'lost'"), ("failed", "every run")]
)
def test_a_status_must_be_named_and_known(given: str, said: str, pool: Path, tmp_path: Path) -> None:
    for how in ("forget", "retry"):
        words = ("--status", given) if given else ()
        assert dfilter("judge", how, *words).startswith("2")
        assert said in dfilter("judge", how, *words)


def test_a_run_is_made_again_for_its_own_rows_alone_and_so_is_every_run_that_has_them(
    pool: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    lines = pool.read_text().splitlines(keepends=True)
    other.write_text("".join(lines[:3]))  # 1 and 2 are bad
    with ScriptedServer(with_bad_rows) as server:
        for data, out in ((pool, "all"), (other, "some")):
            run(server, data, tmp_path / out)
        server.script = well
        said = dfilter("judge", "retry", "--status", "unparsed,truncated", "--run", tmp_path / "some")
        assert "2 of 96" not in said
        assert "1 unparsed" in said or "2 unparsed" in said
        server.log.clear()
        assert "is made again" in run(server, other, tmp_path / "some")
        assert set(asked(server)) == {1}
        server.log.clear()
        assert "is made again" in run(server, pool, tmp_path / "all")  # it holds what was read then
        assert not server.log
        dfilter("judge", "retry", "--status", "truncated")
        assert "finished already" in run(server, other, tmp_path / "some")
        assert "is made again" in run(server, pool, tmp_path / "all")
        assert set(asked(server)) == {3}
    for out in ("all", "some"):
        assert (
            read_manifest(tmp_path / out)["facts"]["judge"]["judges"][0]["statuses"].get("unparsed") is None
        )
    assert "asks no judge" in dfilter(
        "judge", "retry", "--status", "cut", "--run", random_run(pool, tmp_path)
    )


@pytest.mark.slow
def test_a_comparison_evaluates_again_where_its_judges_are_to_be_asked_again(
    cheap: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    with ScriptedServer("2") as server:
        asking = {"evals": (f"{PARTS}:Asking",), "judges": ("m",), "base_url": server.url}
        plan = cheap(tmp_path, **asking, references=())

        def grades() -> list[float]:
            return [cell.results["asking"].values[0] for cell in compare(plan)]

        assert grades() == [2.0]
        server.script = lambda _: Say("5")
        assert dfilter("judge", "retry", "--status", "ok", "--judge", "other", "--yes").startswith("0")
        assert grades() == [2.0]
        assert dfilter("judge", "retry", "--status", "ok", "--judge", "m", "--yes").startswith("0")
        assert grades() == [5.0]
        calls = server.calls
        assert grades() == [5.0]
        assert server.calls == calls


def random_run(pool: Path, tmp_path: Path) -> Path:
    assert dfilter("run", pool, "-s", "random", "--keep", 5, "-o", tmp_path / "random").startswith("0")
    return tmp_path / "random"
