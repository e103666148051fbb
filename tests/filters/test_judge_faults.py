"""What a run does about rows that a judge's server did not answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dfilter.cli import main
from dfilter.errors import ServerError, SettingsError
from dfilter.filters.judge_faults import accepted, named, refuse_failed
from dfilter.llm.answers import STATUSES
from dfilter.run_folder import read_manifest
from dfilter.testing import Say, ScriptedServer

WELL = Say("4.5", tokens=[{"4": 1.0}])


def pool(folder: Path, rows: int = 80) -> Path:
    path = folder / "pool.jsonl"
    lines = (
        f'{{"id": "r{i}", "instruction": "Question {i}?", "output": "Answer {i}."}}\n' for i in range(rows)
    )
    path.write_text("".join(lines))
    return path


def number(body: Mapping[str, Any]) -> int:
    text = body["messages"][-1]["content"]
    found = re.search(r"Question (\d+)\?", text)
    return int(found[1]) if found and f"Answer {found[1]}." in text else -1


def rating(body: Mapping[str, Any]) -> Say:
    return Say(["3", "3.5", "4", "4.5", "5"][number(body) % 5], tokens=[{"4": 1.0}])


def run(server: ScriptedServer, data: Path, out: Path, *more: str) -> Any:
    settings = ("--set", "judge.judge.first_wait=0.01", "--set", "judge.judge.name=scripted")
    words = ["run", str(data), "-s", "alpagasus", "--judge", "m", "--base-url", server.url, "-o", str(out)]
    return CliRunner().invoke(main, [*words, *settings, *more])


def kept(folder: Path) -> bytes:
    return (folder / "selected.jsonl").read_bytes()


def test_an_outage_beyond_the_wait_ends_unfinished_and_the_same_command_goes_on(tmp_path: Path) -> None:
    data, calls = pool(tmp_path), 0

    def script(body: dict) -> Say:
        nonlocal calls
        calls += 1
        return rating(body) if not 70 < calls < 10_000 else Say("restarting", status=503)

    with ScriptedServer(rating) as quiet:
        assert run(quiet, data, tmp_path / "quiet").exit_code == 0
    with ScriptedServer(script) as server, pytest.MonkeyPatch.context() as patched:
        patched.setenv("DFILTER_HOME", str(tmp_path / "home"))
        ended = run(server, data, tmp_path / "run", "--wait-for-server", "1s")
        assert ended.exit_code == 1, ended.output
        assert "restarting" in ended.output
        assert "--wait-for-server" in ended.output
        assert not (tmp_path / "run" / "done").exists()
        calls = 10_000
        again = run(server, data, tmp_path / "run", "--wait-for-server", "2h")
        assert again.exit_code == 0, again.output
    assert kept(tmp_path / "run") == kept(tmp_path / "quiet")


def test_rows_that_are_the_servers_trouble_are_named_with_its_words(tmp_path: Path) -> None:
    says = {
        3: Say("boom", status=500),
        17: Say("a wording nobody knows", status=400),
        18: Say("", status=413),
    }
    with ScriptedServer(lambda body: says.get(number(body)) or rating(body)) as server:
        ended = run(server, pool(tmp_path), tmp_path / "run", "--set", "judge.judge.attempts=3")
        assert ended.exit_code == 0, ended.output
    assert "1 row is broken at the server: r3 (" in ended.output
    assert "1 row is refused by the server: r17 (" in ended.output
    assert "1 row is truncated: r18 (" in ended.output
    table = pq.read_table(tmp_path / "run" / "decisions.parquet").to_pylist()
    reasons = {line["id"]: line["reason"] for line in table}
    assert re.search(r"broken at the server: 3 attempts .* answered 500: boom", reasons["r3"])
    assert re.search(r"refused by the server: .* answered 400: a wording nobody knows", reasons["r17"])
    facts = read_manifest(tmp_path / "run")["facts"]["judge"]["judges"][0]
    assert facts["not_rated"]["broken at the server"] | {"said": ""} == {"rows": 1, "ids": ["r3"], "said": ""}


@pytest.mark.parametrize(
    ("given", "rows", "count"),
    [
        (0, 500, 0),
        ("0", 500, 0),
        ("7", 500, 7),
        ("1%", 500, 5),
        ("0.5 %", 500, 2),
        ("100%", 500, 500),
        (3, 2, 3),
    ],
)
def test_what_is_accepted_is_a_count_or_a_share(given: str | int, rows: int, count: int) -> None:
    assert accepted(given, rows) == count


@pytest.mark.parametrize("given", ["", "-1", "1.5", "101%", "many", "0.01", "nan%"])
def test_anything_else_is_refused_before_anybody_is_asked(given: str) -> None:
    with pytest.raises(SettingsError, match="neither a count of rows nor a share"):
        accepted(given, 10)


def test_rows_that_failed_stop_the_run_unless_so_many_are_accepted() -> None:
    status = np.zeros(200, np.uint8)
    status[[4, 9, 11]] = STATUSES.index("failed")
    said = {4: "it came back in none of its batches' files"}
    with pytest.raises(
        ServerError, match=r"3 of 200 rows have .* none of its batches.*--accept-failed 3"
    ) as caught:
        refuse_failed(status, said, "m", "1%")
    assert caught.value.exit_code == 1
    refuse_failed(status, said, "m", 3)
    refuse_failed(status, said, "m", "2%")
    assert named(status, said, [str(i) for i in range(200)])["failed"]["ids"] == ["4", "9", "11"]  # type: ignore[call-overload,index]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("20m", 1200.0), ("2h", 7200.0), ("45", 45.0), ("1.5h", 5400.0)]
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    import click

    from dfilter.commands import seconds as read

    context, option = click.Context(main), click.Option(["--x"])
    assert read(context, option, text) == seconds
    for wrong in ("2 weeks", "soon", "0s", "-1s", ""):
        with pytest.raises(click.BadParameter):
            read(context, option, wrong)
