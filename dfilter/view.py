"""What a model's window shows of a row: how much is read, whether the response is, and what is unknown.

Every signal that looks through a window says it the same way, a method ``seen(rows)`` beside ``compute``
(see :class:`dfilter.types.Signal`); the pool stores what it says, and the run counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from dfilter.identity import spec_of
from dfilter.types import Example, Json

if TYPE_CHECKING:
    from numpy.typing import NDArray

# tokens: the row's; read: those that a window shows; windows: in how many pieces; unseen: no token of the
# response is among them; unknown: share of the row's characters that the vocabulary has no token for.
SEEN = np.dtype(
    [
        ("tokens", np.int32),
        ("read", np.int32),
        ("windows", np.int32),
        ("unseen", np.bool_),
        ("unknown", np.float32),
    ]
)
MOSTLY = 0.5  # a row of which more is unknown is not looked at: most of its vector would be one token's
WHOLE, PIECES, CUT, UNSEEN, UNKNOWN = "whole", "in pieces", "cut", "response not seen", "mostly unknown"
LEVELS = np.array([WHOLE, PIECES, CUT, UNSEEN, UNKNOWN])  # the worse, the later
MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"  # for instance


@runtime_checkable
class Windowed(Protocol):
    """A signal that looks through a window."""

    def spec(self) -> Mapping[str, Json]:
        """See :class:`dfilter.types.Signal`."""
        ...

    def seen(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Return what the window shows of every row, (len(rows),) of :data:`SEEN`; no weight is needed."""
        ...


@dataclass(frozen=True)
class View:
    """What a signal's window shows of every row, (n,) of :data:`SEEN`: a signal about a signal."""

    of: Windowed

    kind: ClassVar[str] = "view"
    version: ClassVar[int] = 1

    def spec(self) -> Mapping[str, Json]:
        """The signal's own."""
        return spec_of(self)

    def compute(self, rows: Sequence[Example]) -> NDArray[np.void]:
        """Ask the signal."""
        return self.of.seen(rows)


def through(sizes: Iterable[int], starts: Iterable[int], limit: int) -> NDArray[np.void]:
    """Return what a window shows that keeps the beginning of every row, (n,) of :data:`SEEN`.

    Args:
        sizes: tokens of each row.
        starts: tokens before each row's response; as many as there are where it has none.
        limit: tokens that are kept.
    """
    tokens, before = np.array(list(sizes), np.int64), np.array(list(starts), np.int64)
    found = np.zeros(len(tokens), SEEN)
    found["tokens"], found["read"] = tokens, np.minimum(tokens, limit)
    found["windows"], found["unseen"] = 1, (before >= limit) & (before < tokens)
    return found


def levels(seen: NDArray[np.void]) -> NDArray[np.int64]:
    """Return for every row its place in :data:`LEVELS`, (n,)."""
    found = np.where(seen["windows"] > 1, 1, 0)
    found = np.where(seen["read"] < seen["tokens"], 2, found)
    found = np.where(seen["unseen"], 3, found)
    return np.where(unknown(seen), 4, found)


def unknown(seen: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which rows the vocabulary mostly has no token for, (n,)."""
    found: NDArray[np.bool_] = seen["unknown"] > MOSTLY
    return found


def partial(seen: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which rows no single window shows whole, (n,)."""
    found: NDArray[np.bool_] = (seen["windows"] > 1) | (seen["read"] < seen["tokens"])
    return found


@dataclass(frozen=True, eq=False)
class Views:
    """What the windows of several signals show of the rows of one pool.

    Attributes:
        seen: (n,) of :data:`SEEN` for each signal, by the name of its place in the store.
        names: the signals' names, for the eye, by the same.
    """

    seen: dict[str, NDArray[np.void]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, name: str, seen: NDArray[np.void]) -> None:
        """Take in what one signal's window shows; a second one of a name is numbered."""
        same = sum(known.split(" ")[0] == name for known in self.names.values())
        self.seen[place], self.names[place] = seen, f"{name} {same + 1}" if same else name

    def add_turns(self, turns: Views, starts: NDArray[np.int64]) -> None:
        """Take in what windows show of rows turn by turn: of each row its turn that is shown worst.

        Args:
            turns: what they show of the turns, a row's behind each other.
            starts: (n,) where each row's turns begin.
        """
        for place, seen in turns.seen.items():
            owners = np.repeat(np.arange(len(starts)), np.diff([*starts, len(seen)]))
            worst_first = np.lexsort((-levels(seen), owners))
            self.seen[place], self.names[place] = seen[worst_first[starts]], turns.names[place]

    def counts(self) -> dict[str, dict[str, Json]]:
        """Return :func:`counts` of every signal by name."""
        return {self.names[place]: counts(seen) for place, seen in self.seen.items()}

    def worst(self) -> NDArray[np.int64]:
        """Return every row's worst place in :data:`LEVELS`, (n,); -1 where no signal has a window."""
        found = np.full(1, -1)
        for seen in self.seen.values():
            found = np.maximum(found, levels(seen))
        return found

    def clear(self) -> None:
        """Forget all."""
        self.seen.clear()
        self.names.clear()


def counts(seen: NDArray[np.void]) -> dict[str, Json]:
    """Return how many rows were cut, and so on, for summary and manifest."""
    found: dict[str, Json] = {"rows": len(seen)}
    cut = seen["read"] < seen["tokens"]
    found |= {"cut": int(cut.sum()), "response_not_seen": int(seen["unseen"].sum())}
    found |= {"in_pieces": int((seen["windows"] > 1).sum()), "mostly_unknown": int(unknown(seen).sum())}
    return found | ({"window": int(seen["read"][cut].max())} if cut.any() else {})


def sentences(name: str, found: Mapping[str, Any], step: str = "STEP") -> list[str]:
    """Return what to say of one signal's counts; nothing where every row was seen whole.

    Args:
        name: the signal's.
        found: what :func:`counts` returned.
        step: whose setting another encoder would be.
    """
    said = []
    rows = f"of {found['rows']:,} rows"
    if found["cut"]:
        said.append(
            f"{name}: {found['cut']:,} {rows} are longer than a window of {found['window']:,} tokens and "
            f"were not read whole; of {found['response_not_seen']:,} nothing of the response was seen"
        )
    if found["in_pieces"]:
        said.append(f"{name}: {found['in_pieces']:,} {rows} were longer than a window and read in pieces")
    if found["mostly_unknown"]:
        said.append(
            f"{name}: {found['mostly_unknown']:,} {rows} are mostly unknown to the model's vocabulary and "
            f"have no score; a multilingual encoder reads them (--set {step}.embedding.model=NAME, for "
            f"instance {MULTILINGUAL})"
        )
    return said


def report(
    step: str, own: Views, target: Views | None, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Json]]]:
    """Say what a step's windows did not show of the rows and of its target's, and return the counts.

    The target's are forgotten then: it is the same pool for every step.
    """
    found = {"seen": own.counts()} | ({"seen_of_target": target.counts()} if target is not None else {})
    for name, about in (("seen", step), ("seen_of_target", f"{step}, target")):
        for label, figures in found.get(name, {}).items():
            for line in sentences(label, figures, step):
                say(f"{about}: {line}")
    if target is not None:
        target.clear()
    return {name: figures for name, figures in found.items() if figures}
