"""The contracts: what a row is, what a component promises, what a selection holds.

This module imports nothing of ours and nothing heavy. A component is any object
with the one method named here; there is no base class to inherit. Settings are
the fields of a frozen dataclass, and construction does no work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dfilter.pool import Pool

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
KEY_BYTES = 16
UNTRAINED, TOOLS = "untrained", "tools"  # names beside the roles in a content key


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: system, user, assistant or tool.
        content: its text. Reasoning and calls of tools stand in it, see :mod:`dfilter.replies`.
        trained: whether a loss is taken over it, where it is the assistant's.
    """

    role: str
    content: str
    trained: bool = True

    @property
    def learnt(self) -> bool:
        """Whether it is a turn of the assistant that is to be learnt."""
        return self.trained and self.role == "assistant"


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation.

    Attributes:
        id: the user's id, else the row number; unique within a dataset.
        messages: the canonical form; the last assistant turn that is to be learnt is the response.
        fields: the row as it came, so that it can be written back unchanged.
        context: Alpaca's ``input`` column. It is the tail of the user message too; methods that
            show instruction and input apart (AlpaGasus) need to know where it begins.
        tools: the definitions of tools as a JSON list, empty where the row has none.
        pooled: whether all turns that are to be learnt are the response, not the last alone
            (:mod:`dfilter.looked_at`).
    """

    id: str
    messages: tuple[Message, ...]
    fields: Mapping[str, Json]
    context: str = ""
    tools: str = ""
    pooled: bool = False

    @property
    def learnt(self) -> tuple[int, ...]:
        """The places of the turns that are to be learnt, ascending."""
        return tuple(at for at, message in enumerate(self.messages) if message.learnt)

    @property
    def replies(self) -> tuple[int, ...]:
        """The places of the turns that are the response: the last that is to be learnt, or all where pooled.

        Raises:
            ValueError: there is none.
        """
        found = self.learnt
        if not found:
            message = f"Row '{self.id}' has no assistant turn that is to be learnt."
            raise ValueError(message)
        return found if self.pooled else found[-1:]

    @property
    def response(self) -> str:
        """The text of :attr:`replies`, turns separated by an empty line."""
        return "\n\n".join(self.messages[at].content for at in self.replies)

    @property
    def before(self) -> tuple[Message, ...]:
        """The turns before the first of :attr:`replies`."""
        return self.messages[: self.replies[0]]

    @property
    def prompt(self) -> str:
        """Everything before the first of :attr:`replies`, turns separated by an empty line."""
        return "\n\n".join(m.content for m in self.before)

    @property
    def asked(self) -> str:
        """The prompt without its system turns."""
        return "\n\n".join(m.content for m in self.before if m.role != "system")

    @property
    def system(self) -> str:
        """What the prompt's system turns say, separated by an empty line."""
        return "\n\n".join(m.content for m in self.before if m.role == "system")

    @property
    def instruction(self) -> str:
        """The prompt without Alpaca's ``input``."""
        if self.context and self.prompt.endswith(self.context):
            return self.prompt[: -len(self.context)].rstrip("\n")
        return self.prompt

    @property
    def text(self) -> str:
        """Prompt and response together, as LTD embeds a row."""
        return f"{self.prompt}\n\n{self.response}"

    @property
    def key(self) -> bytes:
        """The row's content hash; see :func:`content_key`."""
        key = content_key(self.messages, self.context, self.tools)
        return pooled_key(key) if self.pooled else key


def content_key(messages: Sequence[Message], context: str = "", tools: str = "") -> bytes:
    """Return the 16-byte BLAKE2b hash of what a row says: its turns, tools and where its context begins.

    Ids and other columns do not enter, so a row keeps its signals when the file around it changes. Which
    turns are to be learnt does.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    named = [(m.role if m.trained or m.role != "assistant" else UNTRAINED, m.content) for m in messages]
    for name, text in [(TOOLS, tools), *named] if tools else named:
        content = text.encode()
        digest.update(b"%s\x1f%d\x1f" % (name.encode(), len(content)))
        digest.update(content)
    digest.update(b"\x1e%d" % len(context))
    return digest.digest()


def pooled_key(key: bytes) -> bytes:
    """Return the key of a row of which all that is to be learnt is the response, given the row's own."""
    return hashlib.blake2b(key, digest_size=KEY_BYTES, person=b"dfilter-pooled").digest()


@dataclass(frozen=True, eq=False)
class Scores:
    """What a filter says about every row of a pool.

    Attributes:
        values: (n,) float64; higher is better, NaN means that the filter abstains.
        groups: (n,) int64 cluster label, or none.
        reasons: (n,) why, in a few words, or none.
        facts: figures for summary and manifest (covering radius, judge health, ...).
    """

    values: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    reasons: Sequence[str] | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)


@runtime_checkable
class Signal(Protocol):
    """A pure function of one row's messages and context, given its own settings.

    A signal may set ``shard_rows`` (rows that are computed and stored as one unit; 1,024 unless said).

    A signal may have a method ``tolerance(values)``. It returns how far another batch size, thread count,
    device or engine may move each of its ``values``, as the Euclidean length of a row's difference:
    (n,) numbers, or a mapping from fields to them. What it allows follows from the row's values, from the
    number format that the signal runs in, and from what is rounded on the way; a fault such as padding
    that counts must exceed it. Without the method, and in fields that the mapping leaves out, floating-point
    numbers may move by 1e-5 or by that share of what is longer than 1, and all else must be equal.
    :func:`dfilter.tolerance.disagreement` compares.

    A signal that looks through a window may have a method ``seen(rows)``, which says what the window shows
    of each (:mod:`dfilter.view`). The pool stores it, and runs count the rows that were cut.

    A signal whose class sets ``finite`` has a row's value stored only if all its numbers are finite: what is
    not has NaN in the pool, is named, and is tried again by the next run.
    """

    def spec(self) -> Mapping[str, Json]:
        """Everything that changes a value; its hash names the place in the store."""
        ...

    def compute(self, rows: Sequence[Example]) -> NDArray[Any]:
        """Return one value a row, shape (len(rows), *shape), fixed dtype, possibly structured."""
        ...


@runtime_checkable
class Fit(Protocol):
    """What is learnt from the rows of a pool together."""

    def spec(self) -> Mapping[str, Json]:
        """Everything but the rows that changes the result."""
        ...

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:
        """Write the result into ``folder``, which may hold what a killed run left there.

        ``longer`` is a finished, shorter fit of the same rows and settings to continue from
        (see ``Pool.fit``), or none.
        """
        ...


@runtime_checkable
class Filter(Protocol):
    """Sees the whole pool and gives every row a score."""

    def score(self, pool: Pool) -> Scores:
        """Return scores aligned with ``pool.rows``."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A filter of which something is open until a server is asked; that comes before anything is named."""

    def settled(self) -> Filter:
        """Return the same filter with nothing left open, as far as that can be known now."""
        ...


@runtime_checkable
class Rating(Protocol):
    """A filter that asks a language model, its field ``judge`` with a field ``model``, about every row."""

    judge: Any


class Quote(Protocol):
    """What a piece of work would cost, before it is done."""

    def lines(self) -> list[str]:
        """Return the quote as a person reads it."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A filter whose work is worth a quote: it costs money, or hours."""

    def quote(self, pool: Pool) -> Sequence[Quote]:
        """Return what scoring ``pool`` would cost, without doing it."""
        ...


@runtime_checkable
class Trainer(Protocol):
    """Fine-tunes a model on rows."""

    def train(self, rows: Sequence[Example], out: Path, *, seed: int) -> Path:
        """Train, write the model under ``out`` and return its folder. Resumes what it finds there."""
        ...


@runtime_checkable
class Foretelling(Protocol):
    """A trainer that can tell how much it would train on, and takes ``epochs`` as its budget."""

    def trained_tokens(self, sample: Sequence[Example], rows: int) -> int:
        """Return the tokens that training on so many rows like those of the sample would see."""
        ...


@runtime_checkable
class Screening(Protocol):
    """A trainer that knows beforehand which rows it could learn nothing from."""

    def screen(self, pool: Pool) -> Mapping[int, str]:
        """Return these rows by their place in ``pool.rows``, each with the reason; no weight is loaded.

        A comparison sets them aside before a strategy sees the data, so what costs time should be a signal.
        """
        ...


@runtime_checkable
class Counting(Protocol):
    """A trainer that knows how many tokens of a row it would take its loss over."""

    def counts(self) -> tuple[str, Mapping[str, Json]]:
        """Return the registered signal that counts them in one pass over the rows, and its settings."""
        ...


@dataclass(frozen=True, eq=False)
class EvalResult:
    """One value per prompt, so that statistics stay possible.

    Attributes:
        prompts: (n,) prompt ids; the same evaluation gives the same ids in the same order.
        values: (n,) float64.
        metric: what the value is, for instance "loss per token".
        higher_is_better: the direction of the metric.
        facts: figures beside the values.
    """

    prompts: Sequence[str]
    values: NDArray[np.float64]
    metric: str
    higher_is_better: bool
    facts: Mapping[str, Json] = field(default_factory=dict)


@runtime_checkable
class Evaluator(Protocol):
    """Puts a trained model in front of prompts."""

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Return one value per prompt."""
        ...


@runtime_checkable
class Asking(Protocol):
    """An evaluator whose prompts can be looked for in training rows."""

    def asked(self) -> Sequence[str]:
        """Return the prompts."""
        ...


@runtime_checkable
class Fitting(Protocol):
    """An evaluator that knows how many of its prompts a model can be shown; the others get no value."""

    def shown_to(self, model: str) -> int:
        """Return their number for a model's template, window and vocabulary; no weight is loaded."""
        ...


@runtime_checkable
class Checking(Protocol):
    """An evaluator whose inputs can be read before there is a model."""

    def check(self) -> None:
        """Read what ``evaluate`` will read, and say what is wrong with it."""
        ...


@runtime_checkable
class Duel(Protocol):
    """An evaluator that puts two models side by side."""

    @property
    def needs(self) -> str:
        """The strategy whose model of the same size and seed is the opponent, or nothing."""
        ...

    def versus(self, opponent: Path) -> Evaluator:
        """Return the evaluator with its opponent's folder."""
        ...


@runtime_checkable
class Transform(Protocol):
    """Makes a new row of a row, before the pool."""

    def apply(self, row: Example) -> tuple[Example | None, str]:
        """Return the new row (none drops it) and the reason."""
        ...


class Bar(Protocol):
    """One stage's progress."""

    def advance(self, amount: float, note: str = "") -> None:
        """Say that ``amount`` more of the stage's total is done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> Literal[False] | None: ...


class Progress(Protocol):
    """Where stages report to; a terminal, a log, or nothing."""

    def stage(self, name: str, total: float | None = None, unit: str = "rows") -> Bar:
        """Open a stage; use it in a ``with`` statement."""
        ...

    def say(self, line: str) -> None:
        """Say one line that should stay on the screen."""
        ...
