"""Which model answered, by the server's own word.

Some servers answer with whatever model they have loaded, whichever was asked for. Their answers are kept
under the asked name, so what they say of themselves is counted, and told apart aloud.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dfilter.llm.answers import BROKEN, FAILED, REJECTED, Answer
from dfilter.progress import Silent

if TYPE_CHECKING:
    from dfilter.llm.server import Server
    from dfilter.types import Progress

NOT_REPORTED = "not reported"
WHAT_TO_DO = (
    "The answers are mixed under one judge; give the model that answers now a name of its own "
    "(judge.name=...), so that it is asked for all of them."
)


class Reported:
    """Counts a session's answers by the model that the server reported, and says once when there are two.

    Attributes:
        counts: answers of the last question round by reported model, stored ones too; not those without a
            reply.
    """

    def __init__(self, server: Server, progress: Progress | None) -> None:
        self.server, self.progress = server, progress or Silent()
        self.counts: dict[str, int] = {}
        self._said = False

    def begin(self) -> None:
        """Count anew: what is asked for a pilot is asked for again with all rows."""
        self.counts = {}

    def noted(self, answer: Answer) -> Answer:
        """Count an answer and return it."""
        if answer.status in {FAILED, BROKEN, REJECTED}:
            return answer
        name = answer.model or NOT_REPORTED
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] == 1 and not self._said and mixed(self.counts):
            self._said = True
            self.progress.say(
                f"Warning: asked for {self.server.model}, {self.server.identity} answers as "
                f"{counted(self.counts)}. {WHAT_TO_DO}"
            )
        return answer


def mixed(counts: Mapping[str, int]) -> bool:
    """Return whether answers come from several models; a server that names none mixes nothing."""
    return len(set(counts) - {NOT_REPORTED}) > 1


def counted(counts: Mapping[str, int]) -> str:
    """Return the models that were reported, and how many answers each gave, in words."""
    return ", ".join(
        f"{name} ({number:,} {'answer' if number == 1 else 'answers'})" for name, number in counts.items()
    )
