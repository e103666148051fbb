"""What the command line does with the ledger: who asked, and reading stored answers again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfilter.llm.answers import Reader
from dfilter.llm.grades import SCALES, OneOf
from dfilter.llm.pairs import PairScores
from dfilter.llm.scores import ExpectedScore, TextScore
from dfilter.llm.templates import asked_about
from dfilter.llm.verdicts import opened, who


@dataclass(frozen=True)
class Asked:
    """One asker in the ledger.

    Attributes:
        number: its number.
        name: the hash that names it.
        spec: who asked what of whom.
        answers: how many answers it has.
        changed: what reading again changed: ``status -> status``, or ``value`` for another number.
    """

    number: int
    name: str
    spec: Mapping[str, Any]
    answers: int
    changed: Mapping[str, int]

    def line(self) -> str:
        """Return it as a person reads it."""
        return f"{self.name}  {who(self.spec)}: {self.answers:,} answers"


def askers(ledger: Path | None = None) -> list[Asked]:
    """Return everybody who asked, oldest first."""
    with opened(ledger) as book:
        return [Asked(number, name, spec, answers, {}) for number, name, spec, answers in book.askers()]


def reparse(
    model: str = "", *, write: bool = True, ledger: Path | None = None, readers: Sequence[Reader] = ()
) -> list[Asked]:
    """Read the stored answers of ratings and evaluations again with today's parser, at no cost.

    Args:
        model: only this judge's answers.
        write: keep the new readings; without, only say what would change.
        ledger: the ledger's file.
        readers: use these instead of each judge's own, the first whose name has the same kind.

    Returns:
        One entry a judge, with what changed.
    """
    with opened(ledger) as book:
        out = []
        for number, name, spec, answers in book.askers():
            reader = _reader(spec, readers)
            if reader is None or (model and spec.get("model") != model):
                continue
            changed = Counter(
                "value" if before.status == now.status else f"{before.status} -> {now.status}"
                for _, before, now in book.reread(number, reader, write=write)
            )
            out.append(Asked(number, name, spec, answers, dict(changed)))
        return out


def _reader(spec: Mapping[str, Any], readers: Sequence[Reader]) -> Reader | None:
    own = _own_reader(spec)
    if own is None:
        return None
    same = [r for r in readers if r.name.partition("/")[0] == own.name.partition("/")[0]]
    return same[0] if same else own


def _own_reader(spec: Mapping[str, Any]) -> Reader | None:
    """Return the reader of an asker's answers; None where its answers are no verdicts."""
    if spec.get("kind") == "rating":
        if "mode" not in spec:  # imported
            return None
        if spec["mode"] == "expected":
            return ExpectedScore(spec["low"], spec["high"])
        return TextScore(spec["low"], spec["high"], asked_about(spec["template"]))
    if spec.get("kind") != "evaluation":
        return None
    kind = spec.get("reader", spec.get("template"))  # older askers name their template alone
    if kind in {"pair", "pairwise"}:
        return PairScores()
    return next((OneOf(words, name) for name, words in SCALES.items() if name == kind), None)
