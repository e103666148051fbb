"""Exact match: a model's answers compared with known ones."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.errors import InputError
from dfilter.eval.generation import Answer, Decoding, Refusal, answer, answerable, counted
from dfilter.eval.numbers import CLOSE, OPEN, last_number, marked, pattern
from dfilter.eval.prompts import Prompt, read_answered, read_prompts, shared_facts
from dfilter.identity import CONTENT
from dfilter.types import EvalResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Match = Literal["ends", "equals", "contains", "number"]

_SPACE = re.compile(r"\s+")
_EDGES = " \t\n\"'`*.!?:;,()[]{}“”‘’«»$#\\。"  # noqa: RUF001 - quotation marks that people type
_FINAL = re.compile(r"(?m)^[ \t]*####[ \t]*(\S.*)$")


@dataclass(frozen=True)
class Exact:
    """Share of prompts whose answer is right.

    Both sides are normalised first: Unicode NFKC, lower case, white space as one blank, Markdown marks,
    and quotation marks and punctuation at the ends taken away. Numbers are compared by value in every
    way to match, never inside larger ones; :mod:`dfilter.eval.numbers` says what is understood.

    Several lines in the answer's column are alternatives, and so are the items of a list, each as a whole. A
    text with a line that begins with "####" is a worked solution, as GSM8K's are; right is what follows the
    last such mark alone.

    Attributes:
        source: a file with a prompt and an ``answer`` per line, or a named prompt set.
        answer: the column of the known answer; a list, or one answer a line, allows for several.
        match: "ends": the answer is the last thing said; "equals": it is all that is said;
            "contains": it stands anywhere as a whole word (a model that lists everything wins);
            "number": the last number said is the answer's last number, whatever stands around them.
        decoding: how answers are generated; greedy unless said.
    """

    source: Annotated[str, CONTENT]
    answer: str = "answer"
    match: Match = "ends"
    decoding: Decoding = field(default_factory=Decoding)

    version: ClassVar[int] = 4

    def asked(self) -> list[str]:
        """Return the prompts, to be looked for in training rows."""
        return [prompt.text for prompt in read_prompts(self.source)]

    def shown_to(self, model: str) -> int:
        """Return how many of the prompts the model can be asked."""
        return answerable(model, [prompt.messages for prompt in read_prompts(self.source)], self.decoding)

    def check(self) -> None:
        """Read the prompts and their answers, before there is a model."""
        self._answered()

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Return 1 or 0 per prompt; NaN where the model's template cannot show it.

        Raises:
            InputError: a prompt has no known answer, or none with a number where numbers are compared.
        """
        prompts = self._answered()
        said = answer(model, [prompt.messages for prompt in prompts], self.decoding, seed=seed)
        values = np.array([self._value(found, p) for found, p in zip(said, prompts, strict=True)], np.float64)
        ids = tuple(prompt.id for prompt in prompts)
        facts: dict[str, Any] = {"bounds": [0, 1], "match": self.match} | counted(ids, said)
        return EvalResult(
            ids, values, "exact match", higher_is_better=True, facts=facts | shared_facts(prompts)
        )

    def _answered(self) -> list[Prompt]:
        prompts = read_answered(self.source, self.answer)
        if self.match == "number":
            bare = next((p for p in prompts if not any(map(last_number, map(marked, _known(p))))), None)
            if bare is not None:
                raise InputError(
                    f"Prompt '{bare.id}' of {self.source} has no number in column '{self.answer}', and match "
                    "is 'number'; take another column, or match 'ends'."
                )
        return prompts

    def _value(self, said: Answer | Refusal, prompt: Prompt) -> float:
        return math.nan if isinstance(said, Refusal) else _is_any(said.text, _known(prompt), self.match)


def normalised(text: str) -> str:
    """Return the form in which answers are compared; see :class:`Exact`. Numbers are marked."""
    return _SPACE.sub(" ", marked(text)).strip(_EDGES)


def known(answer: str) -> list[str]:
    """Return the right answers of a column's text: what follows the last "####", else every line."""
    final = _FINAL.findall(answer)
    return final[-1:] or [line for line in answer.splitlines() if line.strip()]


def is_right(said: str, answer: str, match: Match = "ends") -> bool:
    """Return whether what was said is one of the known answers; see :func:`known`."""
    return _is_any(said, known(answer), match)


def _known(prompt: Prompt) -> list[str]:
    """Return the right answers of a prompt; the items of a list may have several lines."""
    return [(_FINAL.findall(one) or [one])[-1] for one in prompt.answers] or known(prompt.answer)


def _is_any(said: str, answers: Sequence[str], match: Match) -> bool:
    heard = normalised(said)
    return any(_matches(heard, normalised(one), match) for one in answers)


def _matches(heard: str, wanted: str, match: Match) -> bool:
    if match == "number":
        heard, wanted = last_number(heard), last_number(wanted)
    if not wanted:
        return False
    form = pattern(wanted, operands=match == "contains")
    if match in {"equals", "number"}:
        return re.fullmatch(form, heard) is not None
    before = "" if wanted[0] == OPEN else rf"(?<![\w.\-{CLOSE}])"
    behind = r"\Z" if match == "ends" else "" if wanted[-1] == CLOSE else r"(?!\w)(?![.,:/\-]\d)"
    return re.search(before + form + behind, heard) is not None
