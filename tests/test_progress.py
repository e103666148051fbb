"""Progress: lines for logs, bars for terminals, and times for the manifest."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfilter import progress
from dfilter.progress import Lines, Silent, Terminal, duration, for_stream


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.44, "0.4 s"),
        (9.97, "10 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (119.9, "2 min 00 s"),
        (3599.8, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (7199, "1 h 59 min"),
    ],
)
def test_durations_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_kind_remembers_how_long_each_stage_took(clock: Clock) -> None:
    silent = Silent()
    for seconds in (2.0, 3.5):
        with silent.stage("embedding", total=10) as bar:
            clock.now += seconds
            bar.advance(1)
    with contextlib.suppress(RuntimeError), silent.stage("broken"):
        clock.now += 1
        raise RuntimeError
    assert silent.timings == {"embedding": 5.5, "broken": 1.0}


def test_a_log_gets_a_line_every_half_minute_with_the_time_left(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out=out)
    with lines.stage("embedding", total=100) as bar:
        for _ in range(10):
            clock.now += 12
            bar.advance(10, "bf16")
    assert out.getvalue().splitlines() == [
        "embedding: 30%, 1 min 24 s left bf16",
        "embedding: 60%, 48 s left bf16",
        "embedding: 90%, 12 s left bf16",
        "embedding: 100% in 2 min 00 s",
    ]


def test_a_short_stage_says_nothing_in_a_log(clock: Clock) -> None:
    out = io.StringIO()
    with Lines(out=out).stage("reading") as bar:
        clock.now += 1
        bar.advance(5)
    assert out.getvalue() == ""


def test_a_stage_that_failed_is_not_said_to_be_done(clock: Clock) -> None:
    out = io.StringIO()
    for total, ending in ((None, "broken off after 9.0 s"), (4, "broken off at 25% after 9.0 s")):
        with contextlib.suppress(KeyboardInterrupt), Lines(out=out).stage("rating", total=total) as bar:
            bar.advance(1 if total else 0)
            clock.now += 9
            raise KeyboardInterrupt
        assert out.getvalue().splitlines()[-1] == f"rating: {ending}"


def test_a_stage_of_unknown_length_counts_its_units(clock: Clock) -> None:
    out = io.StringIO()
    with Lines(out=out).stage("reading", unit="bytes") as bar:
        clock.now += 31
        bar.advance(5_000)
    assert out.getvalue().splitlines()[0] == "reading: 5,000 bytes"


def test_a_terminal_gets_bars_and_a_pipe_lines() -> None:
    assert type(for_stream(io.StringIO())) is Lines
    main, other = pty.openpty()
    with os.fdopen(main, "rb"), os.fdopen(other, "w") as stream:
        assert type(for_stream(stream)) is Terminal


def test_bars_of_nested_stages_stack_and_close_even_when_something_fails() -> None:
    terminal = Terminal()
    terminal.console.file = io.StringIO()
    with terminal.stage("outer", total=2) as outer:
        with contextlib.suppress(RuntimeError), terminal.stage("inner") as inner:
            inner.advance(1, "[not markup]")
            assert terminal.open == 2
            raise RuntimeError
        outer.advance(1)
        assert terminal.open == 1
    assert terminal.open == 0
    with terminal.stage("again"):
        pass
    assert set(terminal.timings) == {"outer", "inner", "again"}


def test_lines_with_brackets_are_said_as_they_are() -> None:
    terminal = Terminal()
    terminal.console.file = out = io.StringIO()
    terminal.say("[bold] is no markup here")
    assert out.getvalue() == "[bold] is no markup here\n"


def test_a_run_on_a_terminal_shows_bars_on_standard_error_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "response": "r"}\n' * 20)
    main, other = pty.openpty()
    slow = f"{Path(__file__).with_name('local_filters.py')}:Slow"
    command = [sys.executable, "-m", "dfilter.cli", "run", "rows.jsonl", "-k", "3", "-o", "out", "-s", slow]
    process = subprocess.Popen(
        [*command, "--set", "filter.pause=0.4"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=other, text=True
    )
    os.close(other)
    shown = b""
    while True:
        try:
            got = os.read(main, 4096)
        except OSError:  # the other end is closed
            break
        if not got:
            break
        shown += got
    os.close(main)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert "Kept 3 of 20 rows" in said
    assert "\x1b" not in said
    assert re.search(r"lengths", shown.decode())
    assert "━" in shown.decode()


@pytest.mark.serial
def test_times_are_real() -> None:
    silent = Silent()
    began = time.monotonic()
    with silent.stage("nap"):
        time.sleep(0.05)
    assert 0.04 < silent.timings["nap"] <= time.monotonic() - began + 0.01
