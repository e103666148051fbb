"""The command line: sentences and exit codes for every mistake, and output that pipes can read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dfilter
from dfilter.cli import main

FILTERS = Path(__file__).with_name("local_filters.py")
WRITTEN = "s/pool.jsonl, heldout.jsonl and truth.jsonl are written.\n"
COMMANDS = sorted(main.commands)


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def rows(n: int) -> str:
    made = [{"instruction": f"q{i}", "output": "so " * (i + 1), "task": "ab"[i % 2]} for i in range(n)]
    return "".join(json.dumps(r) + "\n" for r in made)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with good rows, rows with damage among them, and files that are no rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(rows(20))
    (tmp_path / "bad.jsonl").write_text(rows(5) + "{not json\n" + rows(5))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "prose.jsonl").write_text("It was a dark and stormy night.\n" * 9)
    (tmp_path / "columns.jsonl").write_text('{"a": "b", "c": "d"}\n')
    (tmp_path / "number.toml").write_text("data = 1\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "three.toml").write_text(
        'colour = "red"\n[[steps]]\nfilter = "longset"\n[[steps]]\nfilter = "longest"\nsettings.unit = "w"\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sentences"),
    [
        ("run absent.jsonl -s longest -k 5", ["absent.jsonl"]),
        ("run empty.jsonl -s longest -k 5", ["empty.jsonl"]),
        ("run prose.jsonl -s longest -k 5", ["prose.jsonl"]),
        ("run columns.jsonl -s longest -k 5", ["columns.jsonl"]),
        ("run folder -s longest -k 5", ["folder"]),
        (
            "run good.jsonl -s longset -k 5",
            ["strategy named 'longset'", "Did you mean 'longest'?", "kcenter"],
        ),
        ("run good.jsonl -s absent.toml -k 5", ["absent.toml cannot be read"]),
        ("run good.jsonl -s three.toml", ["'colour'", "Did you mean 'longest'?", "longest.unit = 'w'"]),
        (
            "run good.jsonl -s longest -k lots",
            ["Budget 'lots'", "Write 1000, 9k, 5% or 200ktok."],
        ),
        ("run good.jsonl -s longest -k 0", ["is not a whole number above zero"]),
        ("run good.jsonl -s longest --keep 5 --set filter.unti=words", ["Did you mean 'unit'?"]),
        ("run good.jsonl -s longest --keep 5 --set unit", ["is not of the form NAME.SETTING=VALUE"]),
        ("run good.jsonl -s longest -k 5 --format alpcaa", ["alpcaa", "alpaca"]),
        ("run good.jsonl -s longest -k 5 --map answer", ["is not of the form NAME=COLUMN"]),
        ("run good.jsonl -s longest -k 5 --map response=reply", ["columns are: instruction, output, task"]),
        ("run good.jsonl -s longest -k 5 --where task", ["column=value"]),
        ("run good.jsonl -s longest -k 5 --where tsak=a", ["Did you mean 'task'?"]),
        ("run good.jsonl -s longest -k 5 --where task=z", ["No row fits --where"]),
        ("run good.jsonl -s longest -k 5 --always absent.jsonl", ["absent.jsonl"]),
        ("run bad.jsonl -s longest -k 5 --on-bad-rows stop", ["6"]),
        ("run good.jsonl -s longest -k 5 -o good.jsonl", ["good.jsonl is a file"]),
        ("run good.jsonl -s longest -k 5 -o .", ["is not a run folder"]),
        ("run good.jsonl -s random --seed many", ["many"]),
        ("run good.jsonl -s random --output-format xml", ["xml"]),
        ("show absent", ["absent holds no run"]),
        ("explain absent 3", ["absent holds no run"]),
        ("cache remove", ["Say what to remove"]),
        ("cache remove --older-than soon", ["Age 'soon' is not understood"]),
        ("check longset", ["no filter named 'longset'", "Did you mean 'longest'?"]),
        ("check longest --set unit=w", ["longest.unit = 'w' does not fit"]),
        ("sample -o good.jsonl", ["good.jsonl"]),
        ("sample -o new --rows 3", ["3"]),
        ("rnu good.jsonl", ["rnu"]),
        ("run EMPTY -s longest", ["DATA is empty"]),
        ("run good.jsonl -s longest --keep EMPTY", ["--keep is empty"]),
        ("run good.jsonl -s longest -o \udcff", ["-o", "no UTF-8"]),
        ("run good.jsonl -s longest --where task=\udcff", ["--where", "no UTF-8"]),
        ("run good.jsonl -s random --keep 5 --seed 9223372036854775808", ["9223372036854775808"]),
        ("cache list --older-than soon", ["Age 'soon' is not understood"]),
        ("cache remove nothing", ["Nothing is stored under 'nothing'"]),
        ("sample -o /proc/x", ["/proc/x"]),
        ("compare good.jsonl --margin nan", ["A margin is a positive difference"]),
        ("compare good.jsonl -s EMPTY", ["--strategies is empty"]),
        ("compare number.toml", ["data = 1 is no path"]),
        ("compare absent.toml", ["absent.toml cannot be read"]),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_code_2(here: Path, command: str, sentences: list[str]) -> None:
    before = sorted(here.rglob("*"))
    result = call(*("" if word == "EMPTY" else word for word in command.split()))
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)  # anything else would be a traceback
    assert result.stdout == ""
    assert "Error" in result.stderr
    assert not [s for s in sentences if s not in result.stderr], result.stderr
    assert sorted(here.rglob("*")) == before  # nor is anything left behind


def test_output_that_cannot_be_written_is_a_sentence(here: Path) -> None:
    command = [sys.executable, "-m", "dfilter", "strategies"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: What is printed cannot be written: No space left on device.\n"


def test_a_sample_overwrites_nothing(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "heldout.jsonl").write_text("mine\n")
    assert call("sample", "-o", "mine", "--rows", "60").exit_code == 2
    assert [p.name for p in (here / "mine").iterdir()] == ["heldout.jsonl"]
    for _ in range(2):
        assert call("sample", "-o", "s", "--rows", "60").stdout == WRITTEN


def test_no_traceback_reaches_a_terminal(here: Path) -> None:
    command = [sys.executable, "-m", "dfilter.cli", "run", "absent.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_begins_with_a_sentence(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {command}")
    assert main.commands[command].get_short_help_str(200)[-1] == "."


def test_version_and_help() -> None:
    assert call("--version").output == f"dfilter, version {dfilter.__version__}\n"
    told = call("-h").output
    assert all(f"\n  {command} " in told for command in COMMANDS)
    assert "dfilter run alpaca.json --strategy kcenter --keep 5%" in told


def test_a_run_prints_its_summary_and_nothing_else_to_standard_output(here: Path) -> None:
    result = call(
        "run", "good.jsonl", "-s", "longest", "--set", "filter.unit=characters", "-k", "25%", "-o", "out"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Strategy longest (arXiv:2402.04833), budget 25%, seed 0\nRead 20 rows")
    assert "Kept 5 of 20 rows (25.0%)" in result.stdout
    again = call(
        "run", "good.jsonl", "-s", "longest", "--set", "filter.unit=characters", "-k", "25%", "-o", "out"
    )
    assert again.stdout == result.stdout
    assert "out is finished already; --force makes it again." in again.stderr


def test_quiet_prints_the_folder_alone(here: Path) -> None:
    result = call("run", "good.jsonl", "-s", "random", "-k", "5", "-q")
    folder = Path(result.stdout.strip())
    assert (result.exit_code, result.stderr) == (0, "")
    assert (folder / "done").exists()
    assert folder.parent == Path("runs")


def test_a_dry_run_writes_nothing(here: Path) -> None:
    before = sorted(here.rglob("*"))
    result = call("run", "good.jsonl", "-s", "random", "-k", "5", "--dry-run")
    assert result.exit_code == 0
    assert "20 usable rows" in result.stdout
    assert sorted(here.rglob("*")) == before


def test_mapped_columns_and_filtered_rows(here: Path) -> None:
    text = "".join(json.dumps({"q": f"q{i}", "a": "so " * i, "n": i % 2}) + "\n" for i in range(1, 9))
    (here / "qa.jsonl").write_text(text)
    result = call(
        "run",
        "qa.jsonl",
        "-s",
        "full",
        "--map",
        "prompt=q",
        "--map",
        "response=a",
        "--where",
        "n=1",
        "-o",
        "out",
    )
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["q"] for line in Path("out/selected.jsonl").read_text().splitlines()] == [
        "q1",
        "q3",
        "q5",
        "q7",
    ]


def test_show_and_explain_tell_rows_in_text_and_json(here: Path) -> None:
    column = [f"{FILTERS}:Column", "--set", "filter.column=stars"]
    made = [json.loads(line) | {"stars": i if i % 2 else None} for i, line in enumerate(rows(8).splitlines())]
    (here / "stars.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made))
    assert call("run", "stars.jsonl", "-k", "2", "-o", "out", "-s", *column).exit_code == 0
    text = call("show", "out", "-n", "1").stdout
    assert re.sub("key [0-9a-f]{32}", "key KEY", text) == (
        "kept  7  rank 1  Column 7  key KEY\n  kept: stars is 7\n  prompt: q7\n  response: "
        + "so " * 7
        + "so\n\n"
    )
    shown = [
        json.loads(line) for line in call("show", "out", "--dropped", "--json", "-n", "9").stdout.splitlines()
    ]
    assert [(r["id"], r["score_Column"]) for r in shown][:3] == [("3", 3.0), ("1", 1.0), ("0", None)]
    told = json.loads(call("explain", "out", "5", "--json").stdout, parse_constant=pytest.fail)
    assert (told["rank"], told["score_Column_rank"], told["prompt"]) == (2, 2, "q5")
    assert re.fullmatch("[0-9a-f]{32}", told["key"])
    assert "dropped  3" in call("explain", "out", "3").stdout
    assert f"key {told['key']}" in call("explain", "out", "5").stdout
    assert call("explain", "out", "99").exit_code == 2
    assert call("show", "out", "-n", "0").exit_code == 2


@pytest.mark.parametrize("command", ["strategies", "filters"])
def test_lists_are_a_line_each_in_a_pipe_and_json_on_request(command: str) -> None:
    lines = call(command).stdout.splitlines()
    told = [json.loads(line) for line in call(command, "--json").stdout.splitlines()]
    assert [line.split("\t")[0] for line in lines] == [t["name"] for t in told]
    assert {"kcenter", "lima", "random", "longest", "full", "duplicates"} <= {t["name"] for t in told}
    assert all(t["summary"] for t in told)
    longest = next(t for t in told if t["name"] == "longest")
    assert longest["paper"] == "arXiv:2402.04833"
    if command == "filters":
        assert longest["settings"] == "unit='words', tokenizer='smollm2', turns='all'"


def test_a_pipe_that_is_closed_early_ends_the_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dfilter.cli", "strategies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in errors


def test_check_passes_good_filters_and_fails_broken_ones(here: Path) -> None:
    good = call("check", "longest", "--set", "unit=characters")
    assert good.exit_code == 0, good.output
    assert "passed  the same seed gives the same bytes" in good.stdout
    bad = call("check", f"{FILTERS}:Odd")
    assert bad.exit_code == 1
    assert "FAILED  every row gets one score, finite or NaN: the filter stopped: Filter Odd" in bad.stdout


def test_sample_writes_its_three_files(here: Path) -> None:
    result = call("sample", "-o", "s", "--rows", "60", "--seed", "1")
    assert (result.exit_code, result.stdout) == (
        0,
        WRITTEN,
    )
    assert {p.name for p in Path("s").iterdir()} == {"pool.jsonl", "heldout.jsonl", "truth.jsonl"}


def store_with(home: Path) -> None:
    """A signal of 3 kB that is 40 days old, one of 1 kB that is new, and answers that were paid for."""
    old, new = home / "signals" / "embedding-aa", home / "signals" / "tokens-bb"
    for folder, size in ((old, 3000), (new, 1000)):
        folder.mkdir(parents=True)
        (folder / "0f.shard").write_bytes(bytes(size))
        (folder / "spec.json").write_text('{"class": "X", "spec": {"model": "minilm"}}')
    (home / "ledger.sqlite").write_bytes(bytes(500))
    long_ago = time.time() - 40 * 86400
    for file in [*old.rglob("*"), home / "ledger.sqlite"]:
        os.utime(file, (long_ago, long_ago))


@pytest.mark.parametrize("text", ["", "[]", "3", '{"class": "X"}', '{"spec": 1', "\udcff"])
def test_cache_lists_and_removes_what_has_no_readable_settings(text: str) -> None:
    home = Path(os.environ["DFILTER_HOME"])
    store_with(home)
    spec = home / "signals" / "tokens-bb" / "spec.json"
    spec.write_bytes(text.encode(errors="surrogateescape"))
    (line,) = (line for line in call("cache").stdout.splitlines() if "tokens-bb" in line)
    assert line.endswith("tokens-bb  unreadable")
    assert "tokens-bb" in call("cache", "remove", "tokens-bb").stdout
    assert not spec.parent.exists()


def test_cache_lists_what_is_stored_and_removes_by_name_or_age() -> None:
    home = Path(os.environ["DFILTER_HOME"])
    assert "0.0 MB stored in 0 places" in call("cache").stdout
    store_with(home)
    lines = call("cache").stdout.splitlines()
    assert "40.0 d  signals  embedding-aa" in lines[0]
    assert "minilm" in lines[0]
    assert lines[-1].endswith("stored in 3 places")
    told = call("cache", "remove", "--older-than", "30d", "--dry-run").stdout
    assert told.splitlines()[-1].endswith("would be removed in 1 places")
    assert (home / "signals" / "embedding-aa").exists()
    assert call("cache", "remove", "--older-than", "30d").exit_code == 0
    assert not (home / "signals" / "embedding-aa").exists()
    assert (home / "ledger.sqlite").exists()  # what was paid for goes only by its name
    assert call("cache", "remove", "tokens").exit_code == 0
    assert not (home / "signals" / "tokens-bb").exists()
    assert call("cache", "remove", "ledger").exit_code == 0
    assert not (home / "ledger.sqlite").exists()
