"""Where stages report to: a terminal, a log, or nothing. Every kind remembers how long each stage took."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Self, TextIO

from dfilter.plaintext import shown
from dfilter.types import Bar

LINE_SECONDS = 30.0  # a log gets one line a stage, and one every half minute of a long one


@dataclass(eq=False)
class Silent:
    """Reports nothing.

    Attributes:
        timings: seconds spent in each stage, by name.
    """

    timings: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, total: float | None = None, unit: str = "rows") -> Bar:
        """See :class:`dfilter.types.Progress`."""
        return self._bar(name, total, unit)

    def say(self, line: str) -> None:
        """See :class:`dfilter.types.Progress`."""

    def _bar(self, name: str, total: float | None, unit: str) -> _Bar:
        return _Bar(self, name, total, unit)


class _Bar:
    def __init__(self, owner: Silent, name: str, total: float | None, unit: str) -> None:
        self.owner, self.name, self.total, self.unit = owner, name, total, unit
        self.done = 0.0

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        taken = time.monotonic() - self.started
        self.owner.timings[self.name] = round(self.owner.timings.get(self.name, 0.0) + taken, 3)

    def advance(self, amount: float, note: str = "") -> None:  # noqa: ARG002 - shown by the other kinds
        self.done += amount


@dataclass(eq=False)
class Lines(Silent):
    """Writes plain lines, for logs and pipes."""

    out: TextIO = field(default_factory=lambda: sys.stderr)

    def say(self, line: str) -> None:
        """See :class:`dfilter.types.Progress`."""
        self.out.write(shown(line) + "\n")
        self.out.flush()

    def _bar(self, name: str, total: float | None, unit: str) -> _Bar:
        return _LineBar(self, name, total, unit)


class _LineBar(_Bar):
    def __enter__(self) -> Self:
        super().__enter__()
        self.spoke = self.started
        return self

    def advance(self, amount: float, note: str = "") -> None:
        super().advance(amount, note)
        now = time.monotonic()
        if now - self.spoke >= LINE_SECONDS:
            self.spoke = now
            self.owner.say(f"{self.name}: {self._share()}{_left(self, now)} {note}".rstrip())

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        taken = time.monotonic() - self.started
        if taken > 2:
            share = self._share()
            if error[0] is None:
                ending = f"{share or 'done'} in"
            else:
                ending = f"broken off at {share} after" if share else "broken off after"
            self.owner.say(f"{self.name}: {ending} {duration(taken)}")

    def _share(self) -> str:
        if self.total:
            return f"{self.done / self.total:.0%}"
        return f"{self.done:,.0f} {self.unit}" if self.done else ""


def _left(bar: _Bar, now: float) -> str:
    if not bar.total or not bar.done:
        return ""
    return f", {duration((now - bar.started) * (bar.total - bar.done) / bar.done)} left"


@dataclass(eq=False)
class Terminal(Silent):
    """Live bars on the terminal's standard error, with the time left. Bars of nested stages stack."""

    def __post_init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, markup=False, emoji=False, highlight=False)  # names are no markup
        self.open = 0

    def say(self, line: str) -> None:
        """See :class:`dfilter.types.Progress`."""
        self.console.print(shown(line))

    def _bar(self, name: str, total: float | None, unit: str) -> _Bar:
        return _LiveBar(self, name, total, unit)

    def enter(self, name: str, total: float | None) -> Any:
        """Show one more bar; the first one opens the live display."""
        from rich import progress as rp

        if not self.open:
            self.live = rp.Progress(
                rp.TextColumn("{task.description}", markup=False),
                rp.BarColumn(),
                rp.TaskProgressColumn(),
                rp.TimeElapsedColumn(),
                rp.TextColumn("left", markup=False),
                rp.TimeRemainingColumn(),
                rp.TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
                transient=True,
            )
            self.live.start()
        self.open += 1
        return self.live.add_task(shown(name), total=total, note="")

    def leave(self, task: Any) -> None:
        """Take a bar away; the last one closes the live display."""
        self.live.remove_task(task)
        self.open -= 1
        if not self.open:
            self.live.stop()


class _LiveBar(_Bar):
    owner: Terminal

    def __enter__(self) -> Self:
        super().__enter__()
        self.task = self.owner.enter(self.name, self.total)
        return self

    def advance(self, amount: float, note: str = "") -> None:
        super().advance(amount, note)
        self.owner.live.update(self.task, advance=amount, note=shown(note))

    def __exit__(self, *_: object) -> None:
        self.owner.leave(self.task)
        super().__exit__()


def duration(seconds: float) -> str:
    """Return seconds as a person would say them: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)  # first, or 119.9 s would be 1 min 60 s
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def for_stream(stream: TextIO) -> Silent:
    """Return live bars when ``stream`` is a terminal, plain lines when it is not."""
    return Terminal() if stream.isatty() else Lines(out=stream)
