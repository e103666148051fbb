"""Ratings leave the ledger as lines of JSON, and come into it from logs of elsewhere."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dfilter.cli import main
from dfilter.errors import SettingsError
from dfilter.eval.grade import Grade
from dfilter.eval.judging import Wording, ask_judge
from dfilter.llm.grades import SCALES, OneOf
from dfilter.llm.server import Server
from dfilter.run_folder import read_manifest
from dfilter.testing import Say, ScriptedServer

ROWS = 30
RATINGS = [1.0, 3.0, 4.0, 4.5, 5.0]


def row(n: int) -> dict[str, Any]:
    return {"id": f"r{n}", "instruction": f"Question {n}?", "output": f"Answer {n}."}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return lines(tmp_path / "pool.jsonl", [row(n) for n in range(ROWS)])


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def dfilter(*words: Any) -> str:
    """Run a command and return its exit code and what it said."""
    result = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


def out_of(*words: Any) -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, ["judge", "export", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def selected(pool: Path, out: Path, judge: str, *more: Any) -> list[str]:
    said = dfilter("run", pool, "-s", "alpagasus", "--judge", judge, "-o", out, *more)
    assert said.startswith("0"), said
    return [json.loads(line)["id"] for line in (out / "selected.jsonl").read_text().splitlines()]


def test_every_answer_is_exported_with_whose_it_is_and_what_the_judge_said(
    pool: Path, tmp_path: Path
) -> None:
    odd = {"Answer 3.": Say("hm", model="m-2"), "Answer 4.": Say("", refusal="I would rather not.")}

    def script(body: dict[str, Any]) -> Say:
        text = body["messages"][-1]["content"]
        usual = "4.5\nGood: \u202e\x1b[31m" if "Answer 1" not in text else "3"
        return next((say for words, say in odd.items() if words in text), Say(usual))

    with ScriptedServer(script) as server:
        words = ("--base-url", server.url, "--judge-name", "mine", "--template", "clarity")
        selected(pool, tmp_path / "run", "m", *words)
        file = tmp_path / "out.jsonl"
        assert "60 answers" in dfilter("judge", "export", "--run", tmp_path / "run", "-o", file)
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert found == out_of("--data", pool)
        whole = out_of()
    assert len(whole) == 60 + 16  # and the canaries, which are no rows
    assert {line["id"] for line in whole} == {None}
    first = {line["id"]: line for line in found if line["repeat"] == 0}
    keys = {
        r["id"]: r["key"].hex() for r in pq.read_table(tmp_path / "run" / "decisions.parquet").to_pylist()
    }
    assert {name: line["row"] for name, line in first.items()} == keys
    told = {
        "judge": "m",
        "server": "mine",
        "template": "clarity",
        "kind": "rating",
        "mode": "text",
        "high": 5,
    }
    assert all(told.items() <= line.items() for line in found)
    good, unread, refused = first["r0"], first["r3"], first["r4"]
    assert (good["status"], good["value"], good["text"], good["model"]) == (
        "ok",
        4.5,
        "4.5\nGood: \u202e\x1b[31m",
        "m",
    )
    assert good["output_tokens"] == len(good["text"]) // 4
    assert good["date"].endswith("+00:00")
    assert (unread["status"], unread["value"], unread["text"], unread["model"]) == (
        "unparsed",
        None,
        "hm",
        "m-2",
    )
    assert (refused["status"], refused["text"]) == ("refused", "I would rather not.")
    assert {line["id"] for line in out_of("--run", tmp_path / "run", "--status", "unparsed")} == {"r3"}
    assert out_of("--judge", "other") == []
    assert "leave --data out" in dfilter("judge", "export", "--run", tmp_path / "run", "--data", pool)


def test_a_named_judge_is_one_wherever_it_answers(pool: Path, tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> str:
        return str(len(body["messages"][-1]["content"]) % 3 + 2)

    with ScriptedServer(script) as first, ScriptedServer(script) as moved:
        run = (
            "run",
            pool,
            "-s",
            "alpagasus",
            "--skip-pilot",
            "--judge",
            "m",
            "--judge-name",
            "mine",
            "-o",
            tmp_path / "run",
        )
        assert dfilter(*run, "--base-url", first.url).startswith("0")
        elsewhere = moved.url.replace("127.0.0.1", "localhost")
        assert "finished already" in dfilter(*run, "--base-url", elsewhere)
        assert dfilter(*run[:-1], tmp_path / "other", "--base-url", elsewhere).startswith("0")
        assert moved.calls == 0
        assert {line["server"] for line in out_of("--judge", "mine")} == {"mine"}
        assert dfilter(
            *run[:-1], tmp_path / "another", "--base-url", elsewhere, "--judge-name", "x"
        ).startswith("0")
        assert moved.calls > ROWS
    for command in ("run", "compare"):
        assert "--judge-name" in dfilter(command, "--help")


def test_verdicts_of_evaluations_are_exported_by_their_judges_name() -> None:
    with ScriptedServer("Grade: 4") as server:
        for name in ("mine", "other"):
            at = Server("m", base_url=server.url, name=name)
            question = [{"role": "user", "content": "Grade this."}]
            ask_judge(at, [question], OneOf(SCALES["likert"], "likert"), Wording("likert", ""))
    (line,) = out_of("--judge", "mine")
    told = {"kind": "evaluation", "judge": "m", "server": "mine", "template": "likert", "text": "Grade: 4"}
    assert told.items() <= line.items()
    assert (line["value"], line["row"], line["mode"], line["low"]) == (4.0, None, None, None)


@pytest.mark.parametrize(
    "form", ["jsonl", "array", "csv", "tsv", "semicolons", "gz", "object", "renamed", "messages"]
)
def test_ratings_of_elsewhere_select_and_nobody_is_asked(form: str, pool: Path, tmp_path: Path) -> None:
    scored = [(row(n), RATINGS[n % 5]) for n in range(ROWS)]
    suffix = {"jsonl": "jsonl", "csv": "csv", "tsv": "tsv", "semicolons": "csv", "gz": "jsonl.gz"}
    log, more = tmp_path / f"log.{suffix.get(form, 'json')}", ()
    marks = {"csv": ",", "tsv": "\t", "semicolons": ";"}
    if form in marks:
        with log.open("w", newline="") as file:
            writer = csv.writer(file, delimiter=marks[form])
            writer.writerows([("instruction", "output", "rating")])
            writer.writerows((one["instruction"], one["output"], score) for one, score in scored)
    elif form == "object":
        log.write_text(json.dumps({one["id"]: score for one, score in scored}))
        more = ("--data", pool)
    elif form == "renamed":
        lines(
            log, [{"q": one["instruction"], "a": one["output"], "stars": f"{score}"} for one, score in scored]
        )
        more = ("--map", "score=stars,instruction=q", "--map", "output=a")
    elif form == "messages":
        turns = [
            [{"role": "user", "content": o["instruction"]}, {"role": "assistant", "content": o["output"]}]
            for o, _ in scored
        ]
        lines(log, [{"messages": t, "score": score} for t, (_, score) in zip(turns, scored, strict=True)])
    else:
        made = [one | {"score": score} for one, score in scored]
        text = json.dumps(made) if form == "array" else "\n".join(map(json.dumps, made))
        log.write_bytes(gzip.compress(text.encode()) if form == "gz" else text.encode())
    said = dfilter("judge", "import", log, "--judge", "chatgpt", *more)
    assert "imported:chatgpt: 30 new ratings, 0 known already, 0 rows not taken" in said
    kept = selected(pool, tmp_path / "run", "imported:chatgpt")
    assert kept == [one["id"] for one, score in scored if score >= 4.5]
    facts = read_manifest(tmp_path / "run")["facts"]["judge"]["judges"][0]
    assert (facts["calls"], facts["stored"], facts["statuses"]) == (0, ROWS, {"ok": ROWS})
    assert "0 new ratings, 30 known already" in dfilter(
        "judge", "import", log, "--judge", "imported:chatgpt", *more
    )
    quoted = dfilter("run", pool, "-s", "alpagasus", "--judge", "imported:chatgpt", "--dry-run")
    assert "30 ratings in the ledger, 0 calls" in quoted


def test_bad_rows_are_named_with_counts_and_more_than_half_of_them_are_refused(
    pool: Path, tmp_path: Path
) -> None:
    good = [row(n) | {"score": 4.5} for n in range(10)]
    bad = [row(10) | {"score": 7}, row(11) | {"score": -1}, row(12) | {"score": "high"}, row(13)]
    bad += [row(14) | {"score": True}, row(0) | {"score": 3}, {"instruction": "Q?", "score": 4}, [1]]
    log = lines(tmp_path / "log.jsonl", [*good, *bad])
    with log.open("a") as file:
        file.write("{half\n")
    said = dfilter("judge", "import", log, "--judge", "x")
    assert said.startswith("0 imported:x: 10 new ratings, 0 known already, 9 rows not taken")
    for line in (
        "2 rows: its score is outside 0 to 5 (line 11, line 12)",
        "2 rows: its score is no number (line 13, line 15)",
        "1 row: no score (line 14)",
        "1 row: another rating of the same row stands before it (line 16)",
        "1 row: it is a list, expected a JSON object (line 18)",
        "(line 19)",
    ):
        assert line in said
    assert "line 17" in said
    half = lines(tmp_path / "half.jsonl", bad + good[:3])
    for words, code in (((), "2"), (("--on-bad-rows", "stop"), "2"), (("--on-bad-rows", "keep-going"), "0")):
        assert dfilter("judge", "import", half, "--judge", "y", *words).startswith(code)
        assert len(out_of("--judge", "imported:y")) == (3 if code == "0" else 0)
    ends = lines(tmp_path / "ends.jsonl", [row(n) | {"score": n} for n in (0, 1, 10)])
    said = dfilter("judge", "import", ends, "--judge", "z", "--scale", "1-10")
    assert "2 new ratings" in said
    assert "outside 1 to 10 (line 1)" in said
    other = lines(tmp_path / "other.jsonl", [row(n) | {"score": 4 if n else 2} for n in range(10, 20)])
    assert "10 new" in dfilter("judge", "import", other, "--judge", "x", "--dry-run")
    assert len(out_of("--judge", "imported:x")) == 10
    again = lines(tmp_path / "again.jsonl", [row(n) | {"score": 2 if n < 3 else 4.5} for n in range(10)])
    assert "0 new ratings, 7 known already, 3 rows" in dfilter("judge", "import", again, "--judge", "x")


def test_a_row_without_an_imported_rating_abstains_until_it_has_one(pool: Path, tmp_path: Path) -> None:
    part = lines(tmp_path / "part.jsonl", [row(n) | {"score": 5} for n in range(4)])
    dfilter("judge", "import", part, "--judge", "x")
    run = ("run", pool, "-s", "alpagasus", "--judge", "imported:x", "-o", tmp_path / "run")
    assert selected(pool, tmp_path / "run", "imported:x") == ["r0", "r1", "r2", "r3"]
    reasons = pq.read_table(tmp_path / "run" / "decisions.parquet")["reason"].to_pylist()
    assert sum("not rated: not among the imported ratings" in reason for reason in reasons) == ROWS - 4
    assert "finished already" in dfilter(*run)
    more = lines(tmp_path / "more.jsonl", [row(n) | {"score": 5} for n in range(4, 6)])
    dfilter("judge", "import", more, "--judge", "x")
    assert selected(pool, tmp_path / "run", "imported:x") == [f"r{n}" for n in range(6)]
    none = dfilter(*run[:-1], tmp_path / "none", "--set", "judge.judge.high=10")
    assert none.startswith("1")
    assert "from 0 to 10" in none
    assert "rating by imported:x, 0 to 5 at imported: 6 answers" in dfilter("judge", "list")


def test_replies_are_read_and_exports_are_taken_elsewhere(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["Score: 4.5", "I give it 3/5.", "no idea"]
    log = lines(tmp_path / "log.jsonl", [row(n) | {"said": text} for n, text in enumerate(said)])
    found = dfilter("judge", "import", log, "--judge", "x", "--map", "reply=said")
    assert "2 new ratings, 0 known already, 1 rows not taken" in found
    exported = out_of("--data", pool, "--judge", "imported:x")
    assert [(one["id"], one["value"], one["text"]) for one in exported] == [
        ("r0", 4.5, said[0]),
        ("r1", 3.0, said[1]),
    ]
    file = lines(tmp_path / "ratings.jsonl", exported)
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "another home"))
    assert "2 new ratings" in dfilter("judge", "import", file, "--judge", "x", "--map", "reply=text")
    again = out_of("--data", pool)
    assert [one | {"date": ""} for one in again] == [one | {"date": ""} for one in exported]
    assert "changed" not in dfilter("judge", "reparse")  # they stay as they were imported
    assert "No stored answers match" in dfilter("judge", "retry", "--status", "ok", "--yes")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--judge", "a,b"), "no name of one judge"),
        (("--judge", "x", "--map", "score=stars"), "No row has a column 'stars'"),
        (("--judge", "x", "--map", "stars"), "not of the form NAME=COLUMN"),
        (("--judge", "x", "--by", "id"), "--data FILE"),
        (("--judge", "x", "--scale", "5-1"), "is no scale"),
    ],
)
def test_an_import_that_cannot_be_meant_is_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    log = lines(tmp_path / "log.jsonl", [row(n) | {"score": 4} for n in range(3)])
    found = dfilter("judge", "import", log, *words)
    assert found.startswith("2")
    assert said in found


def test_an_imported_judge_cannot_be_asked_for_evaluations() -> None:
    with pytest.raises(SettingsError, match="cannot be asked"):
        Grade("vicuna", judges=(Server("imported:x"),))


@pytest.mark.slow
def test_the_published_ratings_select_what_they_rate_highest(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "alpaca"
    published = json.loads((folder / "published_selections.json").read_text())["chatgpt_accuracy_rating"]
    log = tmp_path / "ratings.json"
    log.write_text(json.dumps(published))
    data = folder / "alpaca_data.json"
    said = dfilter("judge", "import", log, "--judge", "chatgpt", "--data", data)
    assert "986 new ratings, 0 known already, 0 rows not taken" in said
    kept = selected_rows(data, tmp_path / "run")
    assert kept == sum(score >= 4.5 for score in published.values())


def selected_rows(data: Path, out: Path) -> int:
    said = dfilter("run", data, "-s", "alpagasus", "--judge", "imported:chatgpt", "-o", out)
    assert "986 of 51,974 rows have an imported rating" in said
    return len((out / "selected.jsonl").read_text().splitlines())
