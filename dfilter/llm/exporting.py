"""Stored answers as lines of JSON: who rated what how, in the judge's words."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from dfilter.digests import json_digest
from dfilter.llm.answers import GarbledError, read_body
from dfilter.llm.ledger import Ledger
from dfilter.llm.templates import load, names
from dfilter.llm.verdicts import Choice, find, where
from dfilter.progress import Silent
from dfilter.types import Json

if TYPE_CHECKING:
    from dfilter.types import Progress

COLUMNS = (
    "answer.key, status, value, mass, reason, raw, model, input_tokens, output_tokens, usd, created,"
    " EXISTS (SELECT 1 FROM asked_again WHERE asked_again.key = answer.key AND open)"
)
ANY = f"SELECT {COLUMNS}, NULL, NULL FROM answer WHERE {{}} ORDER BY id"  # noqa: S608
OF_ROWS = (
    f"SELECT {COLUMNS}, place, repeat FROM answer JOIN temp.wanted ON wanted.key = answer.key"  # noqa: S608
    " WHERE {} ORDER BY repeat, place"
)
OWN_WORDS = "own wording"  # of a template that is no template of ours; a few digits tell which


def exported(book: Ledger, choice: Choice, progress: Progress | None = None) -> Iterator[dict[str, Json]]:
    """Yield stored answers, a line each; identical rows have a line each too.

    ``row`` (key of the content), ``id`` and ``repeat`` are null where nobody said which rows are meant, for
    an answer's key does not tell.
    """
    found, rows = find(book, choice), choice.rows
    total = sum(sum(one.taken.values()) for one in found)
    with (progress or Silent()).stage("exporting", total=total, unit="answers") as bar:
        for one in found:
            said = _asker(one.spec)
            condition, values = where(choice, one.asker)
            for *held, place, repeat in book.db.execute((OF_ROWS if rows else ANY).format(condition), values):
                of: dict[str, Json] = {"row": None, "id": None, "repeat": repeat}
                if rows is not None:
                    of |= {"row": rows.keys[place].hex(), "id": rows.ids[place]}
                yield {**of, **said, **_answer(held)}
                bar.advance(1)


def _asker(spec: Mapping[str, Any]) -> dict[str, Json]:
    template = spec.get("template")
    return {
        "kind": spec.get("kind"),
        "judge": spec.get("model"),
        "server": spec.get("server"),
        "template": template if isinstance(template, str | None) else _name(json.dumps(template)),
        "mode": spec.get("mode"),
        "low": spec.get("low"),
        "high": spec.get("high"),
    }


@cache
def _name(parts: str) -> str:
    """Return the name of the template that has these parts."""
    wording = json.loads(parts)
    ours = ((name, load(name)) for name in names())
    named = [
        name for name, one in ours for explained in (True, False) if one.words(explained=explained) == wording
    ]
    return named[0] if named else f"{OWN_WORDS} {json_digest(wording)[:8]}"


def _answer(held: Any) -> dict[str, Json]:
    key, status, value, mass, reason, raw, model, asked, said, usd, created, again = held
    return {
        "model": model,
        "status": status,
        "value": value,
        "mass": mass,
        "reason": reason,
        "text": _words(raw),
        "input_tokens": asked,
        "output_tokens": said,
        "usd": usd,
        "date": dt.datetime.fromtimestamp(created, dt.UTC).isoformat(timespec="seconds"),
        "asked_again": bool(again),
        "key": key.hex(),
    }


def _words(raw: str | None) -> str | None:
    if raw is None:
        return None
    try:
        reply = read_body(raw)
    except GarbledError:
        return None
    return reply.text or reply.refusal
