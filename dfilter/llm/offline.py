"""What sessions share that ask no server: the ledger, and the models that its answers came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from dfilter.llm.ledger import Ledger
from dfilter.llm.reported import Reported

if TYPE_CHECKING:
    from dfilter.llm.server import Server
    from dfilter.types import Progress


class OfflineSession:
    """Opens and closes what such a session needs; use it as a context manager.

    Args:
        server: its model says who answers in a server's place.
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
        self.close()

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()
