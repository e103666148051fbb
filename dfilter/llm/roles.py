"""In whose turn a judge gets its instructions, made out before anything is named after it.

Some models have no system's role: Gemma's and Mistral's old templates, o1. What they are asked then is
another text, so it has another key; ``auto`` becomes ``turn`` or ``user`` before keys and folders are named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dfilter.llm.answers import ChatMessage, Request
from dfilter.llm.ledger import Ledger
from dfilter.llm.probe import UnansweredError, known, shape_of
from dfilter.llm.server import Server
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.llm.budget import Budget

S = TypeVar("S", bound=Server)
SILENCE = 60.0  # seconds for which a server that did not answer is not asked again
_silent: dict[str, float] = {}


def settled(
    server: S,
    messages: Sequence[ChatMessage],
    params: Mapping[str, Json],
    *,
    ledger: Path,
    stored: Callable[[Ledger], bool],
    budget: Budget | None = None,
    ask: bool = True,
) -> S:
    """Return a server whose ``system`` is no longer ``auto``, as far as anybody knows.

    The ledger is asked first: what was learnt, and what was answered with a system's turn. Else the server
    is, once; one that does not answer leaves it open, and counts as one that has the role.

    Args:
        server: where the questions go.
        messages: of one of them.
        params: of one of them.
        ledger: the ledger's file.
        stored: whether the ledger holds answers to questions with a system's turn.
        budget: what the question may cost.
        ask: whether the server may be asked.

    Raises:
        SettingsError, ServerError: the server cannot be used, or refuses whatever is asked.
        CheckError: the budget does not hold the question.
    """
    if server.system != "auto" or server.local or all(m["role"] != "system" for m in messages):
        return server
    found = None
    if ledger.is_file():
        book = Ledger(ledger)
        try:
            found = known(book, server, shape_of(server, messages, params))
            if found is None and stored(book):
                return replace(server, system="turn")
        finally:
            book.close()
    heard = time.monotonic() - _silent.get(server.identity, -SILENCE) >= SILENCE
    if found is None and ask and heard:
        from dfilter.llm.session import Session

        try:
            with Session(server, budget=budget, ledger=ledger) as session:
                found = session.accepts(Request(b"", messages, params))
        except UnansweredError:  # whoever asks the questions waits for it
            _silent[server.identity] = time.monotonic()
            return server
    if found is None:
        return server
    return replace(server, system="turn" if found.system else "user")
