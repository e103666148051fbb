"""What is said while nothing moves: since when, why, and what is tried next and when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfilter.llm.limits import PROBE_AFTER, Gate
from dfilter.progress import duration

if TYPE_CHECKING:
    from dfilter.llm.clock import Clock
    from dfilter.llm.server import Server

TELL_SECONDS = 1.0  # how often the line is renewed


@dataclass(eq=False)
class Waiting:
    """Watches a gate for times in which nothing is answered.

    Attributes:
        server: who is waited for.
        gate: what was seen of it.
        clock: where times come from.
        heard: when anything came back, or was first sent, last.
        why: what the server said last, or what happened.
    """

    server: Server
    gate: Gate
    clock: Clock
    heard: float = 0.0
    why: str = ""

    def line(self, now: float) -> str:
        """Return what to say now; empty when all is well."""
        gate, url = self.gate, self.server.url
        if gate.down_since is not None:
            left = self.server.wait_for_server - gate.silent(now)
            return (
                f"{url} is down since {self._at(gate.down_since, now)} ({self.why}); {self._next(now)}; "
                f"the run stops in {duration(max(0.0, left))} (--wait-for-server)"
            )
        if gate.paused_until - now >= PROBE_AFTER or (gate.alone and gate.paused_until > now):
            until = self._at(gate.paused_until, now)
            return f"{url} wants a pause until {until} ({self.why}); then one request goes first"
        if gate.running and now - self.heard > self.server.patience:
            return (
                f"nothing came back from {url} since {self._at(self.heard, now)}; "
                f"{gate.running} {'request is' if gate.running == 1 else 'requests are'} on the way"
            )
        return ""

    def given_up(self, now: float) -> str:
        """Return the sentence of a run that waits no longer."""
        return (
            f"Nothing has succeeded at {self.server.url} for {duration(self.gate.silent(now))}; the last "
            f"failure: {self.why}. Every answer so far is kept; the same command goes on when the server is "
            "well, and --wait-for-server 8h waits longer for it."
        )

    def _next(self, now: float) -> str:
        seconds = self.gate.paused_until - now
        return f"one request is tried in {duration(seconds)}" if seconds > 0 else "one request is tried now"

    def _at(self, moment: float, now: float) -> str:
        there = time.localtime(self.clock.wall() + moment - now)
        today = time.localtime(self.clock.wall())
        same = there[:3] == today[:3]
        return time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M", there)
