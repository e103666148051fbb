"""Asking judges about answers: templates with fenced texts, strict readers, and one call for all judges."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfilter.digests import json_digest
from dfilter.errors import CheckError, SettingsError
from dfilter.identity import SHORT
from dfilter.llm.answers import OK, UNPARSED, Reader, Reading, Reply, Request, unanswered
from dfilter.llm.roles import settled
from dfilter.llm.session import ledger_path, open_session
from dfilter.llm.templates import in_user_turn
from dfilter.progress import for_stream
from dfilter.types import Json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dfilter.llm.answers import ChatMessage
    from dfilter.llm.server import Server

FOLDER = Path(__file__).with_name("templates")
MAX_TOKENS = 256  # AlpaGasus's judge had as many (arXiv 2307.08701)

_PART = re.compile(r"(?m)^--- *(\w+) *$\n?")
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_DRESS = re.compile(r"[*_`#\[\]()]+")
_PAIR = re.compile(
    r"(\d{1,2}(?:\.\d{1,2})?)(?:/10)?(?:\s*[,;/&]\s*|\s+(?:and\s+)?)(\d{1,2}(?:\.\d{1,2})?)(?:/10)?\.?"
)


@dataclass(frozen=True)
class Wording:
    """A judge's prompt: a template with named texts.

    Attributes:
        name: of the template, or the path of a user's own file.
        text: its content; parts begin with ``--- system`` and ``--- user``.
    """

    name: str
    text: str

    @classmethod
    def load(cls, name: str, fields: Sequence[str]) -> Wording:
        """Read a template of ours by name, or a file.

        Raises:
            SettingsError: it cannot be read, or lacks one of the texts that the judge must see.
        """
        ours = FOLDER / f"{name}.txt"
        path = ours if re.fullmatch(r"[a-z]+", name) and ours.is_file() else Path(name).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The judge's template '{name}' cannot be read: {error}.") from error
        lacking = [
            field for field in fields if f"{{{field}}}" not in text and f"{{{field}:bare}}" not in text
        ]
        if lacking:
            raise SettingsError(
                f"The template {name} lacks {', '.join('{' + field + '}' for field in lacking)}: the judge "
                "would not see it."
            )
        return cls(name, text)

    @property
    def content(self) -> dict[str, Json]:
        """The template by its words, for the identity of an evaluation."""
        return {"content": json_digest(self.text, 32)[:SHORT], "named": self.name}

    def messages(self, **texts: str) -> list[ChatMessage]:
        """Return the chat messages with the texts in their fences.

        ``{name}`` puts a text between marks that occur nowhere else, ``{name:bare}`` without them.
        """
        joined = "\x1f".join(texts.values())
        fence = hashlib.blake2b(joined.encode("utf-8", "replace"), digest_size=6).hexdigest()
        pattern = re.compile(r"\{(" + "|".join([*texts, "fence"]) + r")(:bare)?\}")

        def fill(match: re.Match[str]) -> str:
            if match[1] == "fence":
                return fence
            return texts[match[1]] if match[2] else f"<<<{fence}\n{texts[match[1]]}\n{fence}>>>"

        pieces = _PART.split(self.text)
        named = list(zip(pieces[1::2], pieces[2::2], strict=True)) or [("user", self.text)]
        filled = ((role, pattern.sub(fill, text.strip())) for role, text in named)
        return [{"role": role, "content": text} for role, text in filled if text]


def first_line(reply: Reply) -> str:
    """Return the line on which the verdict belongs: the first one after any thoughts, undressed."""
    text = _THOUGHT.sub("", reply.text, count=1)
    line = next((line for line in text.splitlines() if line.strip()), "")
    return _DRESS.sub("", line).strip()


@dataclass(frozen=True)
class PairScores:
    """Reads two ratings from 1 to 10 on the first line; the value is the first minus the second.

    Understood are ``8 6``, ``8, 6``, ``8.5 7``, ``8/10 6/10``. Everything else is unparsed.
    """

    name: str = "pair/1"

    def read(self, reply: Reply) -> Reading:
        """Return the difference, or why there is none."""
        missing = unanswered(reply)
        if missing is not None:
            return missing
        found = _PAIR.fullmatch(first_line(reply))
        if found is None:
            return Reading(UNPARSED, reason="the first line does not hold two ratings")
        one, two = float(found[1]), float(found[2])
        if not (1 <= one <= 10 and 1 <= two <= 10):
            return Reading(UNPARSED, reason=f"{one:g} and {two:g} are not both between 1 and 10")
        return Reading(OK, one - two)


@dataclass(frozen=True)
class OneOf:
    """Reads one of several words, or whole numbers, that stands alone on the first line.

    Attributes:
        values: word to value.
        kind: for the name, which is kept beside every reading.
    """

    values: tuple[tuple[str, float], ...]
    kind: str

    @property
    def name(self) -> str:
        """Kind and version."""
        return f"{self.kind}/1"

    def read(self, reply: Reply) -> Reading:
        """Return the word's value, or why there is none."""
        missing = unanswered(reply)
        if missing is not None:
            return missing
        line = first_line(reply).casefold().rstrip(".!")
        line = re.sub(r"\A(?:grade|rating|score|verdict|answer)\s*:\s*", "", line)
        value = dict(self.values).get(line)
        if value is None:
            return Reading(UNPARSED, reason="the first line is none of the expected words")
        return Reading(OK, value)


def ask_judge(
    server: Server,
    questions: Sequence[Sequence[ChatMessage]],
    reader: Reader,
    wording: Wording,
    temperature: float = 0.0,
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Ask one judge every question; answers that the ledger holds cost nothing.

    Args:
        server: the judge.
        questions: (n,) chat messages each.
        reader: understands the answers.
        wording: what was asked, for the ledger's record.
        temperature: 0 unless said.

    Returns:
        (n,) values, NaN where the judge gave none that was understood; and how many answers each model
        gave, by the server's word.

    Raises:
        CheckError: not one answer was understood.
        ServerError: the server refuses, or nothing succeeds.
        Interrupted: stopped by the user; what was answered is kept.
    """
    params = {"temperature": temperature, "max_tokens": MAX_TOKENS, **server.extras}
    identity = {
        "server": server.identity,
        "model": server.model,
        "params": params,
        "reader": reader.name.split("/")[0],
    }
    base = json.dumps(identity, sort_keys=True)
    requests = [_request(base, question, params) for question in questions]
    if requests:
        server = settled(
            server,
            requests[0].messages,
            params,
            ledger=ledger_path(),
            stored=lambda book: bool(book.find([request.key for request in requests], raw=False)),
        )
    if server.system == "user":
        requests = [_request(base, in_user_turn(question), params) for question in questions]
    values = np.full(len(requests), np.nan)
    why = ""
    asker: Mapping[str, str] = {"kind": "evaluation", "model": server.model, "template": wording.name}
    with open_session(server, progress=for_stream(sys.stderr)) as session:
        for answer in session.ask(requests, reader=reader, asker=asker, texts=False):
            values[answer.index] = answer.value if answer.status == OK else np.nan
            why = why or answer.reason
        reported = session.reported.counts
    if requests and not np.isfinite(values).any():
        raise CheckError(
            f"The judge {server.model} gave no verdict that was understood in {len(requests):,} answers; "
            f"the first: {why or 'it failed'}. Try another judge, or another template."
        )
    return values, reported


def _request(base: str, question: Sequence[ChatMessage], params: Mapping[str, Json]) -> Request:
    key = hashlib.blake2b((base + json.dumps(list(map(dict, question)))).encode(), digest_size=16).digest()
    return Request(key, question, params)


def local_judges(servers: Sequence[Server]) -> list[str]:
    """Return a finding for every judge that cannot answer in words."""
    return [
        f"{server.model} runs in this process and answers with probabilities of single tokens only; "
        "comparing and grading answers needs a judge on a server."
        for server in servers
        if server.local
    ]


def judge_names(servers: Sequence[Server]) -> list[str]:
    """Return a name per judge: its model's, with the address where two judges share one."""
    models = [server.model for server in servers]
    return [s.model if models.count(s.model) == 1 else f"{s.model} at {s.identity}" for s in servers]
