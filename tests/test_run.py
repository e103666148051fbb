"""A run folder: what is in it, and when it is repeated, resumed, refused or left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dfilter
from dfilter import registry
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import DFilterError, FolderError, InputError, SettingsError
from dfilter.record import write
from dfilter.run import Request, run
from dfilter.run_folder import read_manifest
from dfilter.selection import select
from dfilter.selector import ranking
from dfilter.store import home
from dfilter.store.disk import claim
from dfilter.summary import explain, shown_rows, summary
from dfilter.testing import Heard

FILTERS = Path(__file__).with_name("local_filters.py")
COLUMN = f"{FILTERS}:Column"
DFILTER = [sys.executable, "-m", "dfilter.cli"]
FILES = {
    "strategy.toml",
    "identity.json",
    "manifest.json",
    "selected.jsonl",
    "decisions.parquet",
    "rejected.jsonl",
    "done",
}


def row(number: int, **more: Any) -> dict[str, Any]:
    text = {
        "id": str(number),
        "instruction": f"Say {number}.",
        "input": "",
        "output": f"{number} " + "so " * number,
    }
    return text | {"stars": number % 7, "task": "abc"[number % 3], "cluster": number % 4} | more


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty rows, a row without stars, and two lines that are no rows."""
    file = tmp_path / "data.jsonl"
    rows = [row(n) for n in range(40)]
    rows[11]["stars"] = None
    text = lines(rows).splitlines(keepends=True)
    text[5:5], text[21:21] = ["not json\n"], ['{"instruction": "no output"}\n']
    file.write_text("".join(text))
    return file


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what must repeat: every file, the manifest without its timings."""
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    manifest = json.loads(found["manifest.json"])
    del manifest["timings"]
    return found | {"manifest.json": json.dumps(manifest).encode()}


def decisions(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "decisions.parquet").to_pylist()


def selected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "selected.jsonl").read_text().splitlines()]


def strategy_file(folder: Path, text: str) -> str:
    registry.allow_code(FILTERS)  # a table may name it only because the test does
    file = folder / "mine.toml"
    file.write_text(text.replace("COLUMN", COLUMN))
    return str(file)


# What is in the folder


def test_the_folder_holds_all_its_files_and_nothing_else(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    assert {p.name for p in folder.iterdir()} == FILES


def test_selected_rows_are_the_sources_lines_in_the_sources_order(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    kept = (folder / "selected.jsonl").read_text().splitlines()
    assert len(kept) == 10
    source = data.read_text().splitlines()
    assert kept == [line for line in source if line in set(kept)]
    assert [json.loads(line)["instruction"] for line in kept] == [f"Say {n}." for n in range(30, 40)]


def test_decisions_cover_every_row_with_rank_score_and_reason(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), COLUMN, "10", out=tmp_path / "run"))
    told = decisions(folder)
    assert [d["id"] for d in told] == [str(n) for n in range(40)]
    assert sorted(d["rank"] for d in told if d["kept"]) == list(range(1, 11))
    assert all(d["rank"] is None for d in told if not d["kept"])
    by_rank = sorted((d for d in told if d["kept"]), key=lambda d: d["rank"])
    assert [d["score_Column"] for d in by_rank] == [6.0] * 5 + [5.0] * 5
    assert {d["reason"].split(":")[0] for d in told} == {"kept", "beyond the budget", "Column"}
    assert told[11]["reason"] == "Column: stars is None"
    assert np.isnan(told[11]["score_Column"])


def test_decisions_hold_each_rows_content_key(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), COLUMN, "10", out=tmp_path / "run"))
    column = pq.read_table(folder / "decisions.parquet")["key"]
    assert column.type == pa.binary(16)
    assert column.to_pylist() == [key.tobytes() for key in load(data).keys]
    assert explain(folder, "13")["key"] == load(data).keys[13].tobytes().hex()
    assert all(re.fullmatch("[0-9a-f]{32}", row["key"]) for row in shown_rows(folder, "at-cut", 9))


def test_ties_follow_from_seed_and_keys_alone(data: Path) -> None:
    found = select(data, strategy=COLUMN, keep=10, seed=3)
    told = sorted((d for d in found.decisions().to_pylist() if d["kept"]), key=lambda d: d["rank"])
    scores = np.array([d["score_Column"] for d in told])
    keys = np.frombuffer(b"".join(d["key"] for d in told), np.uint8).reshape(-1, 16)
    assert len(set(scores)) < len(scores)
    assert ranking(scores, keys, [d["id"] for d in told], seed=3).tolist() == list(range(10))


def test_decisions_are_read_in_parts(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "output": "so"} for n in range(65_537)]
    write(select(rows, strategy="random", keep=3), tmp_path)
    parts = pq.ParquetFile(tmp_path / "decisions.parquet").metadata
    assert [parts.row_group(i).num_rows for i in range(parts.num_row_groups)] == [65_536, 1]


def test_rows_that_cannot_be_read_are_counted_and_written_with_line_and_reason(
    data: Path, tmp_path: Path
) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejected] == [6, 22]
    assert all(r["reason"] for r in rejected)
    manifest = read_manifest(folder)
    assert (manifest["data"]["read"], manifest["data"]["rejected"]) == (42, 2)
    assert manifest["counts"]["usable"] == 40
    assert "Read 42 rows, rejected 2" in summary(folder)


def test_the_manifest_counts_why_rows_were_dropped(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), COLUMN, "10", out=tmp_path / "run"))
    manifest = read_manifest(folder)
    assert manifest["counts"] | {"median_response_characters": 0} == {
        "usable": 40,
        "kept": 10,
        "short": 0,
        "always": 0,
        "dropped": {"Column: stars is None": 1, "beyond the budget": 29},
        "median_response_characters": 0,
    }
    assert manifest["facts"]["Column"]["rows"] == 40
    assert manifest["strategy"]["keep"] == "10"
    assert manifest["versions"]["numpy"] == np.__version__
    text = summary(folder)
    assert "Kept 10 of 40 rows (25.0%)" in text
    assert "29  beyond the budget" in text


def test_figures_that_json_cannot_hold_are_written_all_the_same(data: Path, tmp_path: Path) -> None:
    odd = Request(str(data), f"{FILTERS}:Odd", "3", settings=["filter.what=facts"], out=tmp_path / "r")
    folder = run(odd)
    assert read_manifest(folder)["facts"]["Odd"] == {"a": 1.5, "b": 2, "c": "nan", "d": {"e": [1, 2]}}


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("infinite", "infinite score; use NaN to abstain"),
        ("short", r"shape \(39,\); expected \(40,\)"),
        ("list", "returned list; expected dfilter.Scores"),
        ("words", "scores that are no numbers"),
        ("groups", "groups that are no whole numbers"),
        ("reasons", "returned 1 reasons for 40 rows"),
    ],
)
def test_a_filter_that_breaks_the_contract_is_named(
    data: Path, tmp_path: Path, what: str, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=f"Filter Odd returned .*{sentence}|{sentence}"):
        run(Request(str(data), f"{FILTERS}:Odd", "3", settings=[f"filter.what={what}"], out=tmp_path / "r"))
    assert not (tmp_path / "r" / "done").exists()


def test_parquet_on_request(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", output_format="parquet", out=tmp_path / "run"))
    assert pq.read_table(folder / "selected.parquet").to_pylist() == selected(folder)
    again = run(Request(strategy=str(folder / "strategy.toml"), out=tmp_path / "again"))
    assert (again / "selected.parquet").read_bytes() == (folder / "selected.parquet").read_bytes()


# Repeating


def test_its_own_strategy_file_repeats_the_run(data: Path, tmp_path: Path) -> None:
    settings = ["select.tau=inf", "select.quota=task"]
    request = Request(str(data), "longest", "5", seed=3, settings=settings, out=tmp_path / "a")
    first = run(request)
    again = run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "b"))
    assert files_of(again) == files_of(first)


def test_where_and_format_and_mapping_are_repeated(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    rows = [{"question": f"q{n}", "reply": "so " * n, "task": "ab"[n % 2]} for n in range(1, 9)]
    file.write_text(lines(rows))
    request = Request(
        str(file), "longest", "2", where=["task=a"], mapping={"prompt": "question", "response": "reply"},
        out=tmp_path / "a",
    )  # fmt: skip
    first = run(request)
    assert [r["question"] for r in selected(first)] == ["q6", "q8"]
    again = run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "b"))
    assert files_of(again) == files_of(first)


def test_the_same_request_has_the_same_folder_and_another_one_another(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(Request(str(data), "random", "10"))
    assert first.parent == Path("runs")
    assert first.name.startswith("data-random-")
    moved = tmp_path / "elsewhere" / "data.jsonl"
    moved.parent.mkdir()
    shutil.copy(data, moved)
    assert {run(Request("data.jsonl", "random", "10")), first} == {first}
    others = [
        run(Request(str(data), "random", "10", seed=1)),
        run(Request(str(data), "random", "11")),
        run(Request(str(data), "random", "10", settings=["select.tau=inf"])),
        run(Request(str(data), "random", "10", where=["task=a"])),
    ]
    assert len({first, *others}) == 5


def test_other_rows_are_refused_naming_both_hashes(data: Path, tmp_path: Path) -> None:
    first = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    before = read_manifest(first)["data"]["digest"]
    other = tmp_path / "other.jsonl"
    other.write_text(lines([row(n) for n in range(50)]))
    with pytest.raises(InputError) as caught:
        run(Request(str(other), str(first / "strategy.toml"), out=tmp_path / "b"))
    now = str(caught.value)
    assert before in now
    assert str(other) in now
    assert now.count(" hash ") == 2
    data.write_text(lines([row(n) for n in range(39)]))
    with pytest.raises(InputError, match=before):
        run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_moved_rows_are_missed_by_name_and_found_when_named(data: Path, tmp_path: Path) -> None:
    first = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    moved = data.rename(tmp_path / "moved.jsonl")
    with pytest.raises(InputError) as caught:
        run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "b"))
    assert str(data) in str(caught.value)
    assert read_manifest(first)["data"]["digest"] in str(caught.value)
    again = run(Request(str(moved), str(first / "strategy.toml"), out=tmp_path / "b"))
    assert (again / "selected.jsonl").read_bytes() == (first / "selected.jsonl").read_bytes()


def test_a_filter_of_ones_own_that_changed_is_refused(data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(FILTERS.read_text())
    first = run(Request(str(data), f"{mine}:Column", "10", out=tmp_path / "run"))
    again = run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "again"))
    assert files_of(again) == files_of(first)
    mine.write_text(FILTERS.read_text() + "\n# changed\n")
    with pytest.raises(FolderError, match=r"steps\.Column\.filter was column@"):
        run(Request(str(data), f"{mine}:Column", "10", out=tmp_path / "run"))
    with pytest.raises(InputError, match="The code of the recorded run has hash"):
        run(Request(strategy=str(first / "strategy.toml"), out=tmp_path / "third"))


@pytest.mark.parametrize("name", ["random", "lima"])
def test_hash_seed_and_threads_do_not_change_a_byte(data: Path, tmp_path: Path, name: str) -> None:
    folders = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        command = [*DFILTER, "run", str(data), "-s", name, "-k", "10", "-o", str(folder)]
        numbers_of = {"PYTHONHASHSEED": str(number), "OMP_NUM_THREADS": str(number)}
        more = numbers_of | {"DFILTER_HOME": f"{folder}-home"}
        subprocess.run(command, env=os.environ | more, check=True, capture_output=True)
        folders.append(files_of(folder))
    assert folders[0] == folders[1]


def test_the_order_of_rows_does_not_change_the_rows(tmp_path: Path) -> None:
    rows = [row(n, id=f"row {n}") for n in range(60)]
    order = np.random.default_rng(0).permutation(60)
    for name in ("random", "longest", COLUMN):
        for settings in ([], ["select.quota=task", "select.tau=2"], ["select.sample=true"]):
            one, other = (select(given, strategy=name, keep=20, seed=5, settings=settings)
                          for given in (rows, [rows[i] for i in order]))  # fmt: skip
            assert sorted(one.ids) == sorted(other.ids)


# Finished, unfinished, foreign


def test_a_finished_folder_is_left_alone(data: Path, tmp_path: Path) -> None:
    request = Request(str(data), "longest", "10", out=tmp_path / "run")
    folder = run(request)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert run(request) == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_force_makes_it_again(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    before = files_of(folder)
    (folder / "selected.jsonl").write_text("spoilt")
    assert files_of(run(Request(str(data), "longest", "10", out=folder, force=True))) == before
    run(Request(str(data), "longest", "4", out=folder, force=True))
    assert len(selected(folder)) == 4


def test_the_users_files_in_a_run_folder_are_no_part_of_it(data: Path, tmp_path: Path) -> None:
    request = Request(str(data), "longest", "10", out=tmp_path / "run", force=True)
    before = files_of(run(request))
    notes = [tmp_path / "run" / name for name in ("notes.txt", "selected-by-hand.jsonl")]
    for file in notes:
        file.write_text("mine")
    folder = run(request)  # made beside them
    assert all(file.read_text() == "mine" for file in notes)
    for file in notes:
        file.unlink()
    assert read_manifest(folder)["files"].keys() == {"selected.jsonl", "decisions.parquet", "rejected.jsonl"}
    assert files_of(folder) == before


def test_a_folder_of_other_settings_is_refused_naming_the_setting(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    before = files_of(folder)
    with pytest.raises(FolderError, match=r"a finished run .*keep was 10 and is 9"):
        run(Request(str(data), "longest", "9", out=folder))
    done = (folder / "done").read_bytes()
    (folder / "done").unlink()
    with pytest.raises(FolderError, match=r"an unfinished run .*seed was 0 and is 1"):
        run(Request(str(data), "longest", "10", seed=1, out=folder))
    (folder / "done").write_bytes(done)
    assert files_of(folder) == before


def test_an_unfinished_folder_is_completed(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    before = files_of(folder)
    for lost in (["done"], ["done", "manifest.json"], sorted(FILES - {"strategy.toml"})):
        for name in lost:
            (folder / name).unlink()
        (folder / ".selected.jsonl").write_text("half a row")
        with pytest.raises(FolderError, match="unfinished"):
            read_manifest(folder)
        assert files_of(run(Request(str(data), "longest", "10", out=folder))) == before


def test_done_is_written_last(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no manifest today")

    with monkeypatch.context() as patch:
        patch.setattr("dfilter.run_folder.write_json", broken)
        with pytest.raises(RuntimeError):
            run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES - {"done", "manifest.json"}
    run(Request(str(data), "longest", "10", out=tmp_path / "run"))


def test_a_foreign_folder_is_never_written_into(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "me.jpg").write_text("")
    for force in (False, True):
        with pytest.raises(FolderError, match="is not a run folder"):
            run(Request(str(data), "longest", "10", out=folder, force=force))
    assert [p.name for p in folder.iterdir()] == ["me.jpg"]
    with pytest.raises(FolderError, match="is a file"):
        run(Request(str(data), "longest", "10", out=folder / "me.jpg"))
    (tmp_path / "empty").mkdir()
    assert run(Request(str(data), "longest", "10", out=tmp_path / "empty")).name == "empty"


def test_two_writers_of_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    request = Request(str(data), "longest", "10", out=tmp_path / "run")
    folder = run(request)
    (folder / "done").unlink()
    before = {p.name for p in folder.iterdir()}
    with claim(folder / ".claim", wait=False) as mine:
        assert mine
        with pytest.raises(FolderError, match="Another process is writing"):
            run(request)
        assert {p.name for p in folder.iterdir()} - {".claim"} == before  # nothing was taken from the writer


# Kills and interruptions


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    file = tmp_path / "pool.jsonl"
    file.write_text(lines([row(n % 50, instruction=f"Say {n}.") for n in range(320)]))
    return file


def command_of(pool: Path, out: Path, log: Path, **more: Path) -> list[str]:
    values = {"log": log, **more}
    settings = [
        part for name, v in values.items() for part in ("--set", f"filter.{name}={json.dumps(str(v))}")
    ]
    return [*DFILTER, "run", str(pool), "-k", "5%", "-o", str(out), "-s", f"{FILTERS}:Slow", *settings]


def shards_begun(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def same_but_for_the_log(folder: Path) -> dict[str, bytes]:
    """The log is a setting, so it is in the strategy; nothing else may differ."""
    found = files_of(folder)
    for name in ("strategy.toml", "identity.json", "done"):  # the seal is over the other two
        del found[name]
    return found


@pytest.mark.kills
@pytest.mark.parametrize("times", [5, pytest.param(30, marks=pytest.mark.soak)])
def test_killed_at_random_moments_the_folder_is_the_undisturbed_one(
    pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any, times: int
) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "calm-home"))
    changes = dying.whole(command_of(pool_file, tmp_path / "calm", tmp_path / "calm.log"))
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "home"))
    log, out = tmp_path / "log", tmp_path / "killed"
    command = command_of(pool_file, out, log)
    dying.killed(command, changes, times)
    dying.whole(command)
    assert same_but_for_the_log(out) == same_but_for_the_log(tmp_path / "calm")
    begun = shards_begun(log)
    assert set(begun) == set(shards_begun(tmp_path / "calm.log"))
    assert len(begun) - len(set(begun)) <= times  # a kill costs the shard that was being computed


@pytest.mark.serial
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_exits_130_and_the_same_command_continues(
    pool_file: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    log, out, hold = tmp_path / "log", tmp_path / "run", tmp_path / "hold"
    command = command_of(pool_file, out, log, hold=hold)
    hold.touch()  # the third shard waits for as long as this file is there
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(shards_begun(log)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(sign)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted. What was done is kept; the same command continues." in errors
    assert "Traceback" not in errors
    assert said == ""
    assert {p.name for p in out.iterdir()} == {"strategy.toml", "identity.json"}
    before = len(shards_begun(log))
    assert before == 3
    hold.unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(shards_begun(log)) - before <= 20 - before + 1
    assert read_manifest(out)["counts"]["kept"] == 16


@pytest.mark.kills
@pytest.mark.soak
def test_killed_thirty_times_while_rows_are_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    """In three runs of ten kills each; what a run has stored stays as it is to the end."""
    from dfilter import sample

    sample.write(tmp_path / "pool", rows=4000, seed=1)

    def command(out: Path) -> list[str]:
        pool = str(tmp_path / "pool" / "pool.jsonl")
        return [*DFILTER, "run", pool, "-s", "kcenter", "-k", "5%", "-o", str(out)]

    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "calm-home"))
    changes = dying.whole(command(tmp_path / "calm"))
    for attempt in range(3):
        home, out = tmp_path / f"home{attempt}", tmp_path / f"run{attempt}"
        monkeypatch.setenv("DFILTER_HOME", str(home))
        shards: dict[str, int] = {}
        for _ in range(10):
            dying.killed(command(out), changes // 10, 1)
            stored = {str(f): f.stat().st_mtime_ns for f in (home / "signals").glob("*/*.shard")}
            assert stored.items() >= shards.items()  # written once, never again
            shards = stored
        dying.whole(command(out))
        stored = {str(f): f.stat().st_mtime_ns for f in (home / "signals").glob("*/*.shard")}
        assert stored.items() >= shards.items()
        assert files_of(out) == files_of(tmp_path / "calm")


# What a selection keeps


def test_a_share_is_of_the_rows_that_where_admits(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "50%", where=["task=a"], out=tmp_path / "run"))
    told = decisions(folder)
    assert [d["reason"] == "outside --where" for d in told] == [n % 3 != 0 for n in range(40)]
    assert read_manifest(folder)["counts"]["usable"] == 14
    assert {r["task"] for r in selected(folder)} == {"a"}
    assert len(selected(folder)) == 7
    with pytest.raises(InputError, match="No row fits"):
        run(Request(str(data), "longest", "5", where=["task=z"], out=tmp_path / "none"))
    with pytest.raises(SettingsError, match="Did you mean 'task'"):
        run(Request(str(data), "longest", "5", where=["tsak=a"], out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()  # a mistake leaves no folder in the corrected command's way


def test_rows_of_always_join_every_selection_and_are_counted_apart(data: Path, tmp_path: Path) -> None:
    always = tmp_path / "safety.jsonl"
    own = row(99, instruction="Never do this.")
    always.write_text(lines([own, row(39), row(0)]))  # two of them are in the data, too
    folder = run(Request(str(data), "longest", "10", always=str(always), out=tmp_path / "run"))
    kept = selected(folder)
    assert [r["instruction"] for r in kept] == [
        *(f"Say {n}." for n in range(29, 39)), "Never do this.", "Say 39.", "Say 0."
    ]  # fmt: skip
    counts = read_manifest(folder)["counts"]
    assert (counts["kept"], counts["always"], counts["usable"]) == (10, 3, 40)
    assert counts["dropped"]["already in --always"] == 2
    assert "Added 3 rows of --always, counted apart" in summary(folder)
    again = run(Request(strategy=str(folder / "strategy.toml"), out=tmp_path / "again"))
    assert files_of(again) == files_of(folder)
    always.write_text(lines([own]))
    with pytest.raises(InputError, match="--always of the recorded run has hash"):
        run(Request(strategy=str(folder / "strategy.toml"), out=tmp_path / "third"))


def test_always_of_another_shape_or_as_parquet_is_refused_before_anything_is_computed(
    data: Path, tmp_path: Path
) -> None:
    always = tmp_path / "safety.jsonl"
    always.write_text(lines([{"prompt": "p", "response": "r"}]))
    with pytest.raises(DFilterError, match="shape"):
        run(Request(str(data), "longest", "10", always=str(always), out=tmp_path / "run"))
    always.write_text(lines([row(3)]))
    with pytest.raises(SettingsError, match="parquet"):
        run(
            Request(
                str(data), "longest", "3", always=str(always), output_format="parquet", out=tmp_path / "r"
            )
        )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "r").exists()


def test_a_selection_that_is_short_says_by_how_much(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), COLUMN, "100", out=tmp_path / "run"))
    counts = read_manifest(folder)["counts"]
    assert (counts["kept"], counts["short"]) == (39, 61)
    assert "Short: 61 rows fewer than the budget asks for" in summary(folder)


GATED = '[[steps]]\nfilter = "COLUMN"\nname = "stars"\nat_least = 5\n'
RANKED = '[[steps]]\nfilter = "longest"\n[steps.settings]\nunit = "characters"\n'


def passing(stars: int) -> list[int]:
    return [n for n in range(40) if n % 7 >= stars and n != 11]


def numbers(selection: dfilter.Selection) -> list[int]:
    return [int(i) for i in selection.indices]


def test_a_gate_alone_keeps_all_that_passes(data: Path, tmp_path: Path) -> None:
    found = select(data, strategy=strategy_file(tmp_path, GATED))
    assert numbers(found) == passing(5)
    assert (found.keep, found.short) == (None, 0)
    assert {found.verdicts[row] for row in numbers(found)} == {"kept"}
    assert found.dropped == {"stars: stars is None": 1, "stars below 5": 39 - len(passing(5))}


def test_the_budget_is_taken_from_the_rows_that_pass(data: Path, tmp_path: Path) -> None:
    found = select(data, strategy=strategy_file(tmp_path, GATED + RANKED), keep=4)
    assert numbers(found) == passing(5)[-4:]
    assert found.facts["stars"]["wanted"] == 40  # a step that is not the last must rank all rows
    assert np.isnan(found.scores["longest"]).sum() == 40 - len(passing(5))


def test_a_share_at_a_gate_is_of_the_rows_that_enter_it(data: Path, tmp_path: Path) -> None:
    text = GATED + RANKED.replace("[steps.settings]", 'keep = "50%"\n[steps.settings]')
    found = select(data, strategy=strategy_file(tmp_path, text))
    assert numbers(found) == passing(5)[-(len(passing(5)) // 2) :]
    assert found.dropped["longest not in the best 50%"] == len(passing(5)) - len(passing(5)) // 2


def test_a_gate_without_keep_stands_only_where_no_budget_is_given(data: Path, tmp_path: Path) -> None:
    file = strategy_file(tmp_path, GATED.replace("at_least", "at_least_without_keep"))
    assert numbers(select(data, strategy=file)) == passing(5)
    assert len(select(data, strategy=file, keep=30)) == 30


def test_nothing_is_left_after_the_gates(data: Path, tmp_path: Path) -> None:
    file = strategy_file(tmp_path, GATED.replace("5", "50") + RANKED)
    folder = run(Request(str(data), file, "4", out=tmp_path / "run"))
    assert selected(folder) == []
    assert read_manifest(folder)["counts"]["short"] == 4
    assert len(decisions(folder)) == 40
    assert [r["id"] for r in shown_rows(folder, "kept", 5)] == []


def test_scores_of_a_step_reach_the_next_as_its_prior(data: Path, tmp_path: Path) -> None:
    second = '[[steps]]\nfilter = "COLUMN"\nname = "last"\n'
    found = select(data, strategy=strategy_file(tmp_path, GATED + second), keep=4)
    assert found.facts["last"]["prior"] == [float(n % 7) for n in passing(5)]
    assert found.facts["last"]["wanted"] == 4
    assert found.facts["stars"]["prior"] is None


def test_a_ranking_without_any_size_is_refused(data: Path) -> None:
    with pytest.raises(SettingsError, match="give a budget, for instance --keep 5%"):
        select(data, strategy=COLUMN)


def test_a_token_budget_is_the_longest_prefix_of_the_ranking(data: Path) -> None:
    found = select(data, strategy=COLUMN, keep="100tok", settings=["select.tokenizer=words"])
    words = {n: n + 1 for n in range(40)}  # "n so so so ..."
    ranked = [int(i) for i in found.kept]
    assert sum(words[n] for n in ranked) <= 100
    order = select(data, strategy=COLUMN, keep=40)
    following = [int(i) for i in order.kept][len(ranked)]
    assert ranked == [int(i) for i in order.kept][: len(ranked)]
    assert sum(words[n] for n in ranked) + words[following] > 100
    assert found.short == 0


def test_quotas_by_column_and_by_the_filters_groups(data: Path) -> None:
    found = select(data, strategy=COLUMN, keep=12, settings=["select.quota=task", "select.tau=inf"])
    assert sorted(n % 3 for n in numbers(found)) == [0] * 4 + [1] * 4 + [2] * 4
    settings = ["select.quota=group", "select.tau=inf", "filter.group=cluster"]
    found = select(data, strategy=COLUMN, keep=12, settings=settings)
    assert sorted(n % 4 for n in numbers(found)) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert found.decisions()["group"].to_pylist() == [n % 4 for n in range(40)]
    with pytest.raises(SettingsError, match="needs a filter that gives groups"):
        select(data, strategy=COLUMN, keep=12, settings=["select.quota=group"])
    with pytest.raises(DFilterError, match="tsak"):
        select(data, strategy=COLUMN, keep=12, settings=["select.quota=tsak"])


def test_every_form_of_rows_gives_the_same_selection(data: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines() if '"output"' in line]
    forms: Iterator[Any] = iter([data, str(data), rows, pa.Table.from_pylist(rows), Dataset.from_rows(rows)])
    found = [[e.prompt for e in select(form, strategy="random", keep=9, seed=4)] for form in forms]
    assert len(found[0]) == 9
    assert all(prompts == found[0] for prompts in found)


def test_the_selection_knows_its_rows(data: Path) -> None:
    found = dfilter.select(data, strategy="longest", keep="25%")
    assert isinstance(found, dfilter.Selection)
    assert len(found) == 10
    assert found.ids == [example.id for example in found] == [str(n) for n in range(30, 40)]
    assert [int(i) for i in found.kept] == list(range(39, 29, -1))


# Looking at it afterwards


def test_show_lists_kept_dropped_and_the_cut(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))

    def ids(which: str, number: int) -> list[str]:
        return [r["id"] for r in shown_rows(folder, which, number)]

    assert ids("kept", 3) == ["39", "38", "37"]
    assert ids("dropped", 3) == ["29", "28", "27"]
    assert ids("at-cut", 4) == ["31", "30", "29", "28"]
    assert ids("at-cut", 3) == ["31", "30", "29"]
    first = next(iter(shown_rows(folder, "kept", 1)))
    assert first["prompt"] == "Say 39."
    assert first["response"].startswith("39 so")


def test_explain_tells_everything_about_one_row(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), COLUMN, "10", out=tmp_path / "run"))
    told: Mapping[str, Any] = explain(folder, "13")
    assert (told["kept"], told["score_Column"], told["score_Column_rank"]) == (True, 6.0, 1)
    assert told["reason"] == "kept: stars is 6"
    assert told["prompt"] == "Say 13."
    assert "score_Column_rank" not in explain(folder, "11")
    with pytest.raises(FolderError, match="has no row with id '77'"):
        explain(folder, "77")


def test_a_damaged_stored_copy_is_said_when_it_is_shown(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    stored = next((home() / "data").glob("*/rows.arrow"))
    stored.write_bytes(b"spoilt" + stored.read_bytes()[6:])
    heard = Heard()
    assert next(iter(shown_rows(folder, "kept", 1, progress=heard)))["response"]
    assert any("The stored copy" in line and "is damaged" in line for line in heard.lines)


def test_what_moved_is_shown_from_where_it_is_now(data: Path, tmp_path: Path) -> None:
    folder = run(Request(str(data), "longest", "10", out=tmp_path / "run"))
    moved = data.rename(data.with_name("moved.jsonl"))
    heard = Heard()
    told = explain(folder, "39", progress=heard)
    assert "prompt" not in told
    assert told["rank"] == 1
    assert "There is no file" in heard.lines[0]
    assert "--data" in heard.lines[0]
    assert explain(folder, "39", data=str(moved))["prompt"] == "Say 39."
    assert next(shown_rows(folder, "kept", 1, data=str(moved)))["prompt"] == "Say 39."
    data.write_text(lines([row(39)]))
    with pytest.raises(InputError, match="does not hold what"):
        explain(folder, "39", data=str(data))
    assert "prompt" not in explain(folder, "39", progress=heard)


def test_a_pattern_is_found_again_from_anywhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    folder = run(Request(f"{data.stem[:-1]}*.jsonl", "longest", "10", out=tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert explain(folder, "39")["prompt"] == "Say 39."
    again = run(Request(strategy=str(folder / "strategy.toml"), out=tmp_path / "again"))
    assert selected(again) == selected(folder)


def test_one_budget_is_one_run_however_it_is_written(data: Path, tmp_path: Path) -> None:
    for group in (["10", "10.0", "0.01k"], ["5%", "5.0%"], ["100tok", "0.1ktok"]):
        for keep in group:
            settings = ["select.tokenizer='words'"] if "tok" in keep else []
            run(Request(str(data), "longest", keep, settings=settings, out=tmp_path / group[0]))
    with pytest.raises(FolderError, match="keep was 10 and is 11"):
        run(Request(str(data), "longest", "11", out=tmp_path / "10"))


def test_a_run_says_its_own_strategys_name(data: Path, tmp_path: Path) -> None:
    for name in ("mine", "other"):
        steps = '[[steps]]\nfilter = "longest"\n'
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\nkeep = "9"\n{steps}')
    run(Request(str(data), str(tmp_path / "mine.toml"), out=tmp_path / "run"))
    with pytest.raises(FolderError, match="name was mine and is other"):
        run(Request(str(data), str(tmp_path / "other.toml"), out=tmp_path / "run"))


def test_no_folder_is_made_where_none_can_be(data: Path) -> None:
    for out in (Path("/proc/x"), Path("/proc/x/y")):
        with pytest.raises(DFilterError, match=r"cannot be (made there|written)"):
            run(Request(str(data), "longest", "10", out=out))


def test_the_sample_pool_stands_in_where_no_data_is_given(tmp_path: Path) -> None:
    folder = run(Request(strategy="random", keep="10%", out=tmp_path / "run"))
    assert read_manifest(folder)["counts"]["usable"] == 2000
    told = summary(folder).partition("Planted faults")[2]
    found = {w[0]: w for w in (line.split() for line in told.splitlines()) if w[2:3] == ["of"]}
    assert {"swapped", "wrong", "truncated", "duplicate", "clean"} <= set(found)
    assert all(0 <= int(w[1]) <= int(w[3].replace(",", "")) for w in found.values())
