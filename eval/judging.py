"""Asking judges about answers: templates with fenced texts, and one call for all judges."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from dfilter.digests import json_digest
from dfilter.errors import CheckError, SettingsError
from dfilter.identity import SHORT
from dfilter.llm.answers import OK, Reader, Request
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
SHORT_TOKENS = 16  # of a verdict without an explanation
# The last paragraphs of our templates, for judges that explain nothing.
ALONE = {
    "pairwise": "Write the two ratings on one line, that of answer 1 and then that of answer 2, separated by "
    "a blank, and nothing else.",
    "likert": "Write the grade, and nothing else.",
    "quality": "Write the word, and nothing else.",
    "safety": "Write the word, and nothing else.",
}

Explain: TypeAlias = Literal["yes", "no"]

_PART = re.compile(r"(?m)^--- *(\w+) *$\n?")


@dataclass(frozen=True)
class Wording:
    """A judge's prompt: a template with named texts.

    Attributes:
        name: of the template, or the path of a user's own file.
        text: its content; parts begin with ``--- system`` and ``--- user``.
        short: whether it asks for the verdict without an explanation.
    """

    name: str
    text: str
    short: bool = False

    @classmethod
    def load(cls, name: str, fields: Sequence[str], explain: Explain = "yes") -> Wording:
        """Read a template of ours by name, or a file.

        Args:
            name: of the template, or a file.
            fields: the texts that the judge must see.
            explain: ``no`` asks for the verdict alone, in a template of ours.

        Raises:
            SettingsError: it cannot be read, lacks one of the texts that the judge must see, or cannot be
                asked without an explanation.
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
        if explain == "yes":
            return cls(name, text)
        if path != ours:
            raise SettingsError(
                f"explain = no changes templates of ours; ask in {name} itself for the verdict alone."
            )
        before = text.rstrip().rpartition("\n\n")[0]
        return cls(name, f"{before}\n\n{ALONE[name]}\n", short=True)

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
    most = SHORT_TOKENS if wording.short else MAX_TOKENS
    params = {"temperature": temperature, "max_tokens": most, **server.extras}
    kind = reader.name.split("/")[0]
    identity = {"server": server.identity, "model": server.model, "params": params, "reader": kind}
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
    asker = {"kind": "evaluation", "model": server.model, "server": server.identity, "reader": kind}
    asker["template"] = wording.name
    with open_session(server, progress=for_stream(sys.stderr)) as session:
        for answer in session.ask(requests, reader=reader, asker=asker):
            # What an older reader understood of a stored reply is read again.
            found = reader.read(answer.reply) if answer.reply is not None else answer
            values[answer.index] = found.value if found.status == OK else np.nan
            why = why or found.reason
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
    """Return a finding for every judge that cannot answer in words, or cannot be asked at all."""
    imported = [s.model for s in servers if s.imported]
    return [f"{model} is known by its imported ratings alone and cannot be asked." for model in imported] + [
        f"{server.model} runs in this process and answers with probabilities of single tokens only; "
        "comparing and grading answers needs a judge on a server."
        for server in servers
        if server.local
    ]


def judge_names(servers: Sequence[Server]) -> list[str]:
    """Return a name per judge: its model's, with the address where two judges share one."""
    models = [server.model for server in servers]
    return [s.model if models.count(s.model) == 1 else f"{s.model} at {s.identity}" for s in servers]
