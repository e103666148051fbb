r"""Public test doubles for dfilter and its plugins.

from dfilter.testing import Say, ScriptedServer

with ScriptedServer(lambda request: "4.5\nAccurate.") as server:
...  # point --base-url at server.url; server.log and server.bill say what happened
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dfilter.llm.scripted import FAULTS, Logged, Say, ScriptedServer
from dfilter.progress import Silent
from dfilter.types import Bar

__all__ = ["FAULTS", "Heard", "Logged", "Say", "ScriptedServer"]


@dataclass(eq=False)
class Heard(Silent):
    """A progress that keeps what it hears.

    Attributes:
        lines: what was said.
        notes: beside the bars of all stages.
    """

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What was said as a warning."""
        return [line for line in self.lines if line.startswith("Warning")]

    def say(self, line: str) -> None:
        """See :class:`dfilter.types.Progress`."""
        self.lines.append(line)

    def stage(self, name: str, total: float | None = None, unit: str = "rows") -> Bar:
        """See :class:`dfilter.types.Progress`."""
        bar = super().stage(name, total, unit)
        plain = bar.advance

        def advance(amount: float, note: str = "") -> None:
            plain(amount, note)
            if note:
                self.notes.append(note)

        bar.advance = advance  # type: ignore[method-assign]
        return bar
