"""A judge, and rating rows with it.

A rating's key is a hash of the row's content, of everything that makes the judge what it is, and of
the repeat; the address is part of the judge unless the server is given a name. How answers are read
is not part of it, so a better parser reads stored answers again for free.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from dfilter.digests import json_digest
from dfilter.errors import SettingsError
from dfilter.identity import ANYHOW, CONTENT, SHORT, settings_identity
from dfilter.llm.answers import OK, STATUSES, UNPARSED, Answer, Reader, Request
from dfilter.llm.scores import ExpectedScore, TextScore
from dfilter.llm.server import Server
from dfilter.llm.templates import SHORT as NUMBER_ALONE
from dfilter.llm.templates import Template, asked_about, in_user_turn, load
from dfilter.types import Example, Json, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.llm.budget import Budget
    from dfilter.llm.session import Asking

RATING = np.dtype(
    [
        ("value", np.float64),  # mean over the repeats that were understood; NaN when none is
        ("spread", np.float64),  # sample standard deviation over them; NaN below two
        ("mass", np.float64),  # mean probability covered, in `expected` mode; else NaN
        ("status", np.uint8),  # index into STATUSES
        ("repeats", np.uint8),  # how many repeats were understood
    ]
)
SERVER_FIELDS = tuple(f.name for f in fields(Server))
NOTE_SECONDS = 0.25
EXPLAINED_TOKENS, SHORT_TOKENS = 256, 16  # as published; and enough for a number alone


@dataclass(frozen=True)
class Judge(Server):
    """A model, a template and a scale; how to reach the model are the settings of :class:`Server`.

    Attributes:
        model: the model's name on its server, or ``local:NAME`` for one in this process.
        template: accuracy, helpfulness, instruction_following, clarity, or a file with one's own.
        mode: ``text`` reads a score from the answer's first line; ``expected`` takes the mean over
            the score tokens' probabilities, which ranks finely and costs one token.
        low: the scale's lowest rating.
        high: the scale's highest rating.
        temperature: 0 as published; models that refuse one are asked without.
        max_tokens: most tokens of an answer in ``text`` mode, as published.
        explain: whether the judge explains its score, as published; ``no`` asks for the number alone in
            ``text`` mode, which is another judge. Its answers have 16 tokens unless ``max_tokens`` is set.
        repeat: ratings per row; their mean counts.
        min_mass: least probability on score tokens in ``expected`` mode; with less the model was
            about to say something else, and the row counts as unparsed.
        transport: ``live``, or ``batch`` for the Batch API (half the price, up to 24 h).
    """

    model: str = ""
    template: Annotated[str, CONTENT] = "accuracy"
    mode: Literal["text", "expected"] = "text"
    low: int = 0
    high: int = 5
    temperature: float = 0.0
    max_tokens: int = EXPLAINED_TOKENS
    explain: Literal["yes", "no"] = "yes"
    repeat: int = 1
    min_mass: float = 0.5
    transport: Annotated[Literal["live", "batch"], ANYHOW] = "live"

    def __post_init__(self) -> None:
        findings = self.findings()
        if not 0 <= self.low < self.high <= 100:
            findings.append(f"The scale {self.low} to {self.high} is none; expected 0 <= low < high <= 100.")
        if self.mode == "expected" and self.high > 9:
            findings.append(
                f"expected mode reads one digit; the scale goes up to {self.high}. Use mode text."
            )
        if not 1 <= self.repeat <= 100:
            findings.append(f"repeat = {self.repeat}; expected 1 to 100.")
        if self.max_tokens < 1:
            findings.append(f"max_tokens = {self.max_tokens}; expected 1 or more.")
        if not 0 <= self.min_mass <= 1:
            findings.append(f"min_mass = {self.min_mass}; expected a share in [0, 1].")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            findings.append(f"temperature = {self.temperature}; expected 0 or more.")
        if self.model.startswith("local:") and "," not in self.model and self.mode != "expected":
            findings.append("A local: judge reads probabilities only; set its mode to expected.")
        if findings:
            raise SettingsError(*findings)

    def identify(self) -> Mapping[str, Json]:
        """Return what makes its ratings, with the template by its words, and how its answers are read."""
        settings = settings_identity(self, but=() if self.short else ("explain",))
        if not self.model:
            return settings  # nobody is named yet
        own = {n: v for n, v in settings.items() if n not in self.spec}
        told = {n: v for n, v in self.spec.items() if n != "kind"}
        if self.imported:
            return told | {"repeat": self.repeat}
        words = {"content": json_digest(self.spec["template"], 16)[:SHORT], "named": self.template}
        return own | told | {"template": words, "reader": self.reader.name}

    @property
    def server(self) -> Server:
        """Where the judge is asked.

        Raises:
            SettingsError: no model is named.
        """
        return Server(**{name: getattr(self, name) for name in SERVER_FIELDS})

    @cached_property
    def wording(self) -> Template:
        """The template; read once.

        Raises:
            SettingsError: it cannot be used, or does not ask for the number alone where that is wanted.
        """
        found = load(self.template)
        if self.short and NUMBER_ALONE not in dict(found.parts):
            raise SettingsError(
                f"explain = no needs a part '--- {NUMBER_ALONE}' in the template {self.template}, which asks "
                "for the score alone. Write one, or leave explain out."
            )
        return found

    @property
    def short(self) -> bool:
        """Whether answers in words are asked for without an explanation."""
        return self.explain == "no" and self.mode == "text"

    @property
    def reader(self) -> Reader:
        """Understands this judge's answers."""
        if self.mode == "expected":
            return ExpectedScore(self.low, self.high)
        return TextScore(self.low, self.high, asked_about(dict(self.wording.parts)))

    @property
    def params(self) -> dict[str, Json]:
        """The chat-completion parameters."""
        if self.mode == "expected":
            asked: dict[str, Json] = {"max_tokens": 1, "temperature": self.temperature}
            return {**asked, "logprobs": True, "top_logprobs": 20, **self.extras}
        published = self.short and self.max_tokens == EXPLAINED_TOKENS
        most = SHORT_TOKENS if published else self.max_tokens
        return {"max_tokens": most, "temperature": self.temperature, **self.extras}

    @cached_property
    def spec(self) -> dict[str, Json]:
        """Everything that makes an answer this judge's; of an imported one, its name and scale."""
        if self.imported:
            return imported_spec(self.model, self.low, self.high)
        short: dict[str, Json] = {"explain": "no"} if self.short else {}
        return short | {
            "kind": "rating",
            "model": self.model,
            "server": self.server.identity,
            "template": dict(self.wording.words(explained=not self.short)),
            "mode": self.mode,
            "low": self.low,
            "high": self.high,
            "params": self.params,
            **({"system": "user"} if self.system == "user" else {}),
        }

    @cached_property
    def hash(self) -> str:
        """Names the judge in keys and ledger."""
        return json_digest(self.spec)

    def settled(self, ledger: Path | None = None, *, budget: Budget | None = None, ask: bool = True) -> Judge:
        """Return the judge with its ``system`` made out; see :func:`dfilter.llm.roles.settled`."""
        from dfilter.llm.roles import settled
        from dfilter.llm.session import ledger_path

        asks = self.model and not self.imported
        if self.system != "auto" or not asks or not dict(self.wording.parts).get("system"):
            return self
        asked = [{"role": "system", "content": ""}, {"role": "user", "content": ""}]
        return settled(
            self,
            asked,
            self.params,
            ledger=ledger or ledger_path(),
            stored=lambda book: book.answered(self.hash),
            budget=budget,
            ask=ask,
        )

    def key(self, row: Example, repeat: int = 0) -> bytes:
        """Return the key of one rating of one row."""
        content = replace(row, pooled=False).key if self.imported else row.key  # others rated whole rows
        return rating_key(content, self.hash, repeat)

    def request(self, row: Example, repeat: int = 0) -> Request:
        """Return the question whose answer rates ``row``; of an imported judge it is its key alone."""
        if self.imported:
            return Request(self.key(row, repeat), ())
        ending = NUMBER_ALONE if self.short else self.mode
        messages = self.wording.messages(row, ending, self.low, self.high)
        messages = in_user_turn(messages) if self.system == "user" else messages
        return Request(self.key(row, repeat), messages, self.params)

    def requests(self, rows: Iterable[Example], repeats: Sequence[int]) -> Iterator[Request]:
        """Return the questions for all rows, those of one row together."""
        return (self.request(row, repeat) for row in rows for repeat in repeats)


def imported_spec(model: str, low: int, high: int) -> dict[str, Json]:
    """Return what makes an imported judge; nobody knows how it was asked."""
    server = Server(model).identity
    return {"kind": "rating", "model": model, "server": server, "low": low, "high": high}


def rating_key(content: bytes, judge: str, repeat: int = 0) -> bytes:
    """Return the key of a rating, given the keys of the row's content and of the judge (its ``hash``)."""
    return hashlib.blake2b(
        content + bytes.fromhex(judge) + repeat.to_bytes(4, "big"), digest_size=16
    ).digest()


def rate(
    rows: Sequence[Example],
    judge: Judge,
    *,
    session: Asking,
    progress: Progress | None = None,
    repeats: Sequence[int] | None = None,
    label: str = "",
    said: dict[int, str] | None = None,
) -> NDArray[Any]:
    """Rate rows; what the ledger holds costs nothing.

    Args:
        rows: what to rate; iterated once.
        judge: who rates.
        session: an open session with the judge's server.
        progress: shows done, failed, rows/s, spent and expected cost.
        repeats: which repeats to ask for; ``range(judge.repeat)`` unless given.
        label: the stage's name.
        said: takes what was said about rows that are not rated, by position.

    Returns:
        (len(rows),) of ``RATING``. A row counts as rated when more than half of its repeats are
        understood; else its status is that of the first one that is not.

    Raises:
        ServerError, CheckError, Interrupted, StoreError: see ``Session.ask``.
    """
    judge = judge.settled(getattr(session, "path", None))  # stand-ins for a session may have no ledger
    repeats = range(judge.repeat) if repeats is None else repeats
    tally = Tally(len(rows), len(repeats), judge.min_mass if judge.mode == "expected" else 0.0)
    asked = session.ask(judge.requests(rows, repeats), reader=judge.reader, asker=judge.spec, texts=False)
    if progress is None:
        for answer in asked:
            tally.add(answer)
        return tally.ended(said)
    with progress.stage(
        label or f"rating with {judge.model}", total=len(rows) * len(repeats), unit="ratings"
    ) as bar:
        spoke, waiting = time.monotonic(), 0
        for answer in asked:
            tally.add(answer)
            waiting += 1
            if (now := time.monotonic()) - spoke >= NOTE_SECONDS:
                bar.advance(waiting, note=tally.note(now))
                spoke, waiting = now, 0
        bar.advance(waiting, note=tally.note(time.monotonic()))
    return tally.ended(said)


class Tally:
    """Answers of rows x repeats as they come in, and what they cost."""

    def __init__(self, rows: int, repeats: int, min_mass: float = 0.0) -> None:
        self.repeats, self.min_mass = repeats, min_mass
        self.total = np.zeros(rows)
        self.squares = np.zeros(rows)
        self.mass = np.zeros(rows)
        self.understood = np.zeros(rows, dtype=np.uint8)
        self.status = np.full(rows, 255, dtype=np.uint8)
        self.first = np.full(rows, 255, dtype=np.uint8)
        self.said: dict[int, str] = {}  # why a row is not rated, in the words of its first such answer
        self.done = self.failed = self.paid = 0
        self.usd = 0.0
        self.started = time.monotonic()

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        row, repeat = divmod(answer.index, self.repeats)
        status = UNPARSED if answer.mass < self.min_mass else answer.status
        if status == OK:
            self.understood[row] += 1
            self.total[row] += answer.value
            self.squares[row] += answer.value * answer.value
            self.mass[row] += answer.mass
        elif repeat < self.first[row]:
            self.first[row], self.status[row] = repeat, STATUSES.index(status)
            self.said[row] = answer.reason
        self.done += 1
        self.failed += answer.status == "failed"
        if not answer.stored:
            self.paid += 1
            self.usd += answer.usd or 0.0

    def note(self, now: float) -> str:
        """Return the live line: failed, rows a second, spent, expected total."""
        parts = [f"{self.done / max(now - self.started, 1e-3) / self.repeats:.0f} rows/s"]
        if self.failed:
            parts.insert(0, f"{self.failed} failed")
        if self.usd:
            left = len(self.total) * self.repeats - self.done
            parts.append(f"${self.usd:.2f} of about ${self.usd + self.usd / self.paid * left:.2f}")
        return ", ".join(parts)

    def ended(self, said: dict[int, str] | None) -> NDArray[Any]:
        """Return the rows' ratings, and put into ``said`` why the others have none."""
        out = self.ratings()
        if said is not None:
            said |= {row: self.said.get(row, "") for row in np.flatnonzero(out["status"] != 0).tolist()}
        return out

    def ratings(self) -> NDArray[Any]:
        """Return the rows' ratings."""
        out = np.zeros(len(self.total), dtype=RATING)
        n = self.understood.astype(np.float64)
        rated = 2 * n > self.repeats
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.total / n
            variance = (self.squares - n * mean * mean) / (n - 1)
            out["value"] = np.where(rated, mean, np.nan)
            out["spread"] = np.where(n >= 2, np.sqrt(np.maximum(variance, 0.0)), np.nan)
            out["mass"] = np.where(rated, self.mass / n, np.nan)
        out["repeats"] = self.understood
        out["status"] = np.where(
            rated, 0, np.where(self.status == 255, STATUSES.index("failed"), self.status)
        )
        return out


def counts(ratings: NDArray[Any]) -> Mapping[str, int]:
    """Return how many rows have each status."""
    numbers = np.bincount(ratings["status"], minlength=len(STATUSES))
    return {name: int(numbers[i]) for i, name in enumerate(STATUSES) if numbers[i]}
