"""Nothing that comes from outside drives the terminal: real commands on a real terminal, and hostile text."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dfilter.cli import main
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.plaintext import CONTROLS, shown, shown_all, shown_json, shown_lines
from dfilter.types import EvalResult

ROOT = Path(__file__).parent.parent
PARTS = Path(__file__).with_name("compare_parts.py")
EVIL = "\x1b]0;owned\x07\x1b[5;41m\x9b31m\u202eevil\x7f\x08\u2066\u200f\x85"
TOLD = r"\x1b]0;owned\x07\x1b[5;41m\x9b31m\u202eevil\x7f\x08\u2066\u200f\x85"
BARS = re.compile(r"\x1b\[(\?25[lh]|[0-9]*[A-K]|[0-9;]*m)")  # what rich writes to move and colour its bars
OURS = ("\x1b[5;41m",)  # nobody but EVIL writes this


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, whose file, rows, columns, ids, strategy and steps all carry EVIL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLS", "calls")
    made = [
        {
            "id": f"{n}{EVIL}\nkept  9",
            "instruction": f"q{n} {EVIL}",
            "output": f"{EVIL}\r\nkept  8 " * (n + 1),
        }
        | {f"column{EVIL}": n}
        for n in range(12)
    ]
    (tmp_path / f"rows{EVIL}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    step = {"filter": "longest", "name": f"[/red]{EVIL}\nstep", "settings": {"unit": "characters"}}
    (tmp_path / "s.toml").write_text(tomli_w.dumps({"name": f"mine{EVIL}\nmine", "steps": [step]}))
    return tmp_path


def on_a_terminal(*args: str) -> tuple[int, str]:
    """Run a command whose streams are a terminal; return its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dfilter.cli", *args]
    environment = os.environ | {"COLUMNS": "4000", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            got = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not got:
            break
        written += got
    os.close(ours)
    return process.wait(), written.decode()


def harmless(written: str, *, bars: bool = False) -> str:
    """Return what a terminal got, made sure that nothing in it drives the terminal."""
    assert not any(text in written for text in OURS)
    plain = BARS.sub("", written) if bars else written
    plain = plain.replace("\r\n", "\n").replace("\r", "" if bars else "\r")
    found = sorted({c for c in plain if ord(c) in CONTROLS and c != "\n"})
    assert not found, found
    return plain


def test_a_run_and_what_it_tells_afterwards(here: Path) -> None:
    rows = f"rows{EVIL}.jsonl"
    code, written = on_a_terminal("run", rows, "-s", "s.toml", "-k", "3", "-o", f"out{EVIL}")
    assert code == 0, written
    summary = harmless(written, bars=True)
    assert f"[/red]{TOLD}" in summary  # the bar of a step whose name looks like markup
    assert rf"Strategy mine{TOLD}\nmine" in summary
    assert f"Files: out{TOLD}/selected.jsonl" in summary
    assert TOLD in harmless(on_a_terminal("run", rows, "-s", "s.toml", "-k", "3", "--dry-run")[1], bars=True)
    code, written = on_a_terminal("show", f"out{EVIL}", "-n", "2")
    lines = harmless(written).split("\n")
    assert code == 0
    assert lines[0].startswith(rf"kept  11{TOLD}\nkept  9  rank 1  [/red]{TOLD}\nstep ")
    assert [line[:6] for line in lines] == ["kept  ", "  kept", "  prom", "  resp", ""] * 2 + [""]
    code, written = on_a_terminal("explain", f"out{EVIL}", f"11{EVIL}\nkept  9")
    told = harmless(written).split("\n")
    assert code == 0
    assert sum(line.startswith("kept") for line in told) == 1  # the response's own lines are set in
    assert sum(line.startswith("    kept  8") for line in told) == 12


def test_json_on_a_terminal_reads_back_as_the_same_values(here: Path) -> None:
    made = CliRunner().invoke(main, ["run", f"rows{EVIL}.jsonl", "-s", "s.toml", "-k", "3", "-o", "out"])
    assert made.exit_code == 0, made.output
    for command in (["show", "out", "-n", "1"], ["explain", "out", f"11{EVIL}\nkept  9"]):
        code, written = on_a_terminal(*command, "--json")
        row = json.loads(harmless(written))
        assert code == 0
        assert row["id"] == f"11{EVIL}\nkept  9"
        assert row["prompt"] == f"q11 {EVIL}"
        assert f"score_[/red]{EVIL}\nstep" in row


@pytest.mark.parametrize(
    "command",
    [
        ["run", f"absent{EVIL}.jsonl"],
        ["run", "ROWS", "-s", f"longest{EVIL}"],
        ["run", "ROWS", "-s", f"absent{EVIL}.toml"],
        ["run", "ROWS", "-s", f"absent{EVIL}.py:Class"],
        ["run", "ROWS", "-s", "s.toml", "--set", f"filter.{EVIL}=1"],
        ["run", "ROWS", "-s", "s.toml", "--map", f"response={EVIL}"],  # it lists the file's columns
        ["run", "ROWS", "-s", "s.toml", "--where", f"{EVIL}=1"],
        ["run", "ROWS", "-s", "s.toml", "-k", EVIL],
        ["run", "ROWS", "-s", "s.toml", "--format", EVIL],
        ["run", "roles.jsonl", "-s", "s.toml", "--on-bad-rows", "stop"],
        ["run", "ROWS", "-s", "ifd", "--set", f"filter.model={EVIL}", "-k", "3"],
        ["compare", "ROWS", "-s", "s.toml", "-m", EVIL],
        ["compare", "ROWS", "-s", "s.toml", "--trainer", EVIL],
        ["compare", "ROWS", "-s", "s.toml", "--eval", f"exact:{EVIL}", "-m", "tiny"],
        ["check", EVIL],
        ["cache", "remove", "--older-than", EVIL],
        ["show", EVIL],
        # click's own
        ["run", "ROWS", "--seed", EVIL],
        ["run", "ROWS", "--allow-code", EVIL],
        ["run", "ROWS", f"--{EVIL}"],
        ["leaderboard", EVIL],
        [EVIL],
        ["judge", EVIL],
    ],
    ids=lambda command: " ".join(command).replace(EVIL, "EVIL"),
)
def test_an_error_quotes_what_it_was_given_without_obeying_it(here: Path, command: list[str]) -> None:
    Path("roles.jsonl").write_text(json.dumps({"messages": [{"role": EVIL, "content": "x"}]}) + "\n")
    words = [f"rows{EVIL}.jsonl" if word == "ROWS" else word for word in command]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert "evil" in harmless(result.stderr)
    assert harmless(result.stdout) == ""


def test_an_error_on_a_terminal_and_a_newline_in_it(here: Path) -> None:
    code, written = on_a_terminal("run", f"{EVIL}\nError: all is well")
    assert code == 2
    last = harmless(written, bars=True).strip().split("\n")[-1]
    assert last.endswith(rf"Error: No file matches {TOLD}\nError: all is well.")


def test_a_comparison_its_plan_its_failures_and_its_tables(here: Path) -> None:
    Path("parts.py").write_text(
        PARTS.read_text() + f"\n\nclass Refusing(Mean):\n    def train(self, *_, **__):\n"
        f"        raise CheckError({f'refused {EVIL}' + chr(10) + 'with a second line'!r})\n"
    )
    common = [
        "compare", f"rows{EVIL}.jsonl", "-s", "s.toml", "-k", "3", "--seeds", "1", "-m", "words",
        "--recipe", "none", "--eval", "parts.py:Near", "--no-longest", "--no-full", "--no-random",
    ]  # fmt: skip
    plan, refused = (["--trainer", f"parts.py:{name}"] for name in ("Mean", "Refusing"))
    code, written = on_a_terminal(*common, *plan, "-o", "plan", "--dry-run")
    assert code == 0, written
    assert rf"mine{TOLD}\nmine" in harmless(written, bars=True)
    written = CliRunner().invoke(main, [*common, *refused, "-o", "refused", "--dry-run"]).stdout
    assert rf"so would every cell: refused {TOLD}\nwith a second line" in harmless(written)
    code, written = on_a_terminal(*common, *plan, "-o", "out")
    assert code == 0, written
    assert "evil" in harmless(written, bars=True)
    for style in ("md", "csv"):
        code, written = on_a_terminal("leaderboard", "out", "--format", style)
        assert code == 0
        assert "evil" in harmless(written)
    told = CliRunner().invoke(main, ["leaderboard", "out", "--format", "json"]).stdout
    assert json.loads(harmless(told))["rows"][0]["strategy"] == f"mine{EVIL}\nmine"
    for style in ("md", "csv"):  # tables are looked at with cat, too
        piped = CliRunner().invoke(main, ["leaderboard", "out", "--format", style]).stdout
        assert rf"mine{TOLD}\nmine" in harmless(piped)
        assert rf"mine{TOLD}\nmine" in harmless(Path(f"out/leaderboard.{style}").read_text())
    kept = harmless(Path("out/leaderboard.json").read_text())
    assert json.loads(kept)["rows"][0]["strategy"] == f"mine{EVIL}\nmine"


def test_a_table_tells_why_cells_failed_without_obeying_it() -> None:
    scores = EvalResult(["a", "b"], np.array([0.0, 1.0]), f"m{EVIL}", higher_is_better=True)
    cells = [
        Cell("random", "3", 0, rows=3, results={"e": scores}),
        Cell(EVIL, "3", 0, failed=f"no {EVIL}\nno"),
    ]
    text = leaderboard(cells).render("table", 4000)
    assert rf"no {TOLD}\nno" in harmless(text)


def test_a_servers_reply_does_not_drive_the_terminal(here: Path, reply_with: Callable[[bytes], str]) -> None:
    address = reply_with(json.dumps({"error": {"message": f"no {EVIL} from the server"}}).encode())
    result = CliRunner().invoke(
        main,
        ["run", f"rows{EVIL}.jsonl", "-s", "alpagasus", "--judge", f"m{EVIL}", "--base-url", address],
        env={"OPENAI_API_KEY": "none"},
    )
    assert result.exit_code in {1, 2}, result.output
    assert TOLD.removesuffix(r"\x85") + " from the server" in harmless(result.stderr)  # white space is folded


@pytest.fixture
def reply_with():
    """A server that answers everything with 400 and these bytes; returns its address."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    started = []

    def start(body: bytes) -> str:
        class Refusing(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(400)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Refusing)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_stored_is_listed_without_obeying_it() -> None:
    place = Path(os.environ["DFILTER_HOME"]) / "signals" / f"tokens-{EVIL}"
    place.mkdir(parents=True)
    (place / "spec.json").write_text(json.dumps({"class": "X", "spec": {"model": EVIL}}))
    assert "evil" in harmless(CliRunner().invoke(main, ["cache"]).stdout)


def test_warnings_logs_and_tracebacks_pass_too() -> None:
    code = (
        "from dfilter.plaintext import guard_reports; guard_reports()\n"
        "import logging, sys, warnings\n"
        "warnings.warn(sys.argv[1]); logging.warning('%s', sys.argv[1]); raise ValueError(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, EVIL], capture_output=True, text=True, check=False)
    assert harmless(done.stderr).count("evil") == 3
    assert f"Warning: {TOLD}" in done.stderr
    assert done.stderr.endswith(f"ValueError: {TOLD}\n")


def test_nothing_writes_to_a_terminal_but_what_escapes() -> None:
    """A new command that prints by other means would have to escape by itself, and forget it one day."""
    known = {"dfilter/plaintext.py", "dfilter/progress.py", "dfilter/llm/scripted.py"}
    rooms = [ROOT / room for room in ("dfilter", "filters", "embed", "cluster", "train", "eval")]
    linked = [ROOT / "dfilter" / room.name for room in rooms]
    files = [f for room in rooms for f in room.rglob("*.py") if not any(map(f.is_relative_to, linked))]
    wrong = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.fullmatch(r"print|(click\.)?s?echo|sys\.std(out|err)\.write|.*markup.*|.*Console", called):
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} calls {called}")
    assert [place for place in wrong if place.partition(":")[0] not in known] == []


@given(st.text())
def test_only_controls_are_escaped(text: str) -> None:
    assert not {ord(c) for c in shown(text)} & set(CONTROLS)
    assert not ({ord(c) for c in shown(text, lines=True)} & set(CONTROLS)) - {9, 10}
    ordinary = "".join(c for c in text if ord(c) not in CONTROLS)
    assert shown(ordinary) == ordinary
    assert shown(shown(text)) == shown(text)
    assert json.loads(shown_json(json.dumps({text: text}, ensure_ascii=False))) == {text: text}


def test_what_an_escape_looks_like() -> None:
    assert shown("a\x1b\x9b\n\t\r\x00\u202e\udcff") == r"a\x1b\x9b\n\t\r\x00\u202e\udcff"
    assert shown("a\n\tb\r", lines=True) == "a\n\tb\\r"
    assert shown_lines(["a\nb", "c"]) == "a\\nb\nc"
    assert shown("größe 距離 🙂 שלום C:\\temp") == "größe 距離 🙂 שלום C:\\temp"
    assert shown_all({"\n": ["\n", ("\n", 1)]}) == {r"\n": [r"\n", (r"\n", 1)]}
