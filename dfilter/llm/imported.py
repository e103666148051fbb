"""A judge whose ratings were imported: it answers from the ledger, and is never asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from dfilter.llm.answers import ABSENT, Answer, Reader, Request, TextReader
from dfilter.llm.offline import OfflineSession
from dfilter.llm.work import answer_of
from dfilter.types import Json

AS_IMPORTED = TextReader("imported/1")  # its name stands where that of the reader does
CHUNK = 500  # requests looked up together


class ImportedSession(OfflineSession):
    """Answers requests with what the ledger holds; what it lacks is ``absent``.

    The server's model is ``imported:NAME``.
    """

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
