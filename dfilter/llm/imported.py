"""A judge whose ratings were imported: it answers from the ledger, and is never asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dfilter.llm.answers import ABSENT, Answer, Reader, Request, TextReader
from dfilter.llm.ledger import Ledger
from dfilter.llm.reported import Reported
from dfilter.llm.work import answer_of
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.server import Server
    from dfilter.types import Progress

AS_IMPORTED = TextReader("imported/1")  # its name stands where that of the reader does
CHUNK = 500  # requests looked up together


class ImportedSession:
    """Answers requests with what the ledger holds; what it lacks is ``absent``.

    Args:
        server: its model is ``imported:NAME``.
        ledger: the ledger's file; ``DFILTER_HOME/ledger.sqlite`` unless given.
        progress: as for :class:`dfilter.llm.session.Session`.
    """

    def __init__(
        self, server: Server, *, ledger: Path | None = None, progress: Progress | None = None
    ) -> None:
        from dfilter.llm.session import ledger_path

        self.server = server
        self.reported = Reported(server, progress)
        self.ledger = Ledger(ledger or ledger_path())
        self.stored = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    def ask(
        self,
        requests: Iterable[Request],
        *,
        reader: Reader | None = None,  # noqa: ARG002 - ratings stay as they were imported
        asker: Mapping[str, Json] | None = None,  # noqa: ARG002 - who imported them is who asked
        texts: bool = True,
    ) -> Iterator[Answer]:
        """Answer requests; see :meth:`dfilter.llm.session.Session.ask`."""
        self.reported.begin()
        rest = enumerate(requests)
        while part := list(islice(rest, CHUNK)):
            found = self.ledger.find({request.key for _, request in part}, raw=texts)
            self.stored += len(found)
            for index, request in part:
                held = found.get(request.key)
                if held is None:
                    yield Answer(index, request.key, ABSENT)
                else:
                    one = answer_of(index, held, AS_IMPORTED, texts=texts, stored_before=True)
                    yield self.reported.noted(one)

    def facts(self) -> dict[str, Json]:
        """Return what was found."""
        return {"server": self.server.identity, "stored": self.stored, "calls": 0, "usd": 0.0}
