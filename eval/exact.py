"""Exact match: a model's answers compared with known ones."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.eval.generation import Decoding, generate
from dfilter.eval.prompts import read_answered, read_prompts, shared_facts
from dfilter.identity import CONTENT
from dfilter.types import EvalResult

if TYPE_CHECKING:
    from pathlib import Path

Match = Literal["ends", "equals", "contains", "number"]

_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_EDGES = " \t\n\"'`*.!?:;,()[]{}“”‘’«»$"  # noqa: RUF001 - quotation marks that people type
_WRAPPED = re.compile(r"[*_`]+")


@dataclass(frozen=True)
class Exact:
    """Share of prompts whose answer is right.

    Both sides are normalised first: Unicode NFKC, lower case, white space as one blank, Markdown
    marks, thousands separators and quotation marks and punctuation at the ends taken away.

    Attributes:
        source: a file with a prompt and an ``answer`` per line, or a named prompt set.
        answer: the column of the known answer; a list, or one answer a line, allows for several.
        match: "ends": the answer is the last thing said; "equals": it is all that is said;
            "contains": it stands anywhere as a whole word (a model that lists everything wins);
            "number": the last number said is the answer's.
        decoding: how answers are generated; greedy unless said.
    """

    source: Annotated[str, CONTENT]
    answer: str = "answer"
    match: Match = "ends"
    decoding: Decoding = field(default_factory=Decoding)

    version: ClassVar[int] = 1

    def asked(self) -> list[str]:
        """Return the prompts, to be looked for in training rows."""
        return [prompt.text for prompt in read_prompts(self.source)]

    def check(self) -> None:
        """Read the prompts and their answers, before there is a model."""
        read_answered(self.source, self.answer)

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Return 1 or 0 per prompt.

        Raises:
            InputError: a prompt has no known answer.
        """
        prompts = read_answered(self.source, self.answer)
        said = generate(model, [prompt.messages for prompt in prompts], self.decoding, seed=seed)
        pairs = zip(said, prompts, strict=True)
        values = np.array([is_right(text, p.answer, self.match) for text, p in pairs], dtype=np.float64)
        facts: dict[str, Any] = {"bounds": [0, 1], "match": self.match, "silent": said.count("")}
        ids = tuple(prompt.id for prompt in prompts)
        return EvalResult(
            ids, values, "exact match", higher_is_better=True, facts=facts | shared_facts(prompts)
        )


def normalised(text: str) -> str:
    """Return the form in which answers are compared; see :class:`Exact`."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = _GROUPED.sub("", _WRAPPED.sub("", plain))
    return _SPACE.sub(" ", plain).strip(_EDGES)


def is_right(said: str, answer: str, match: Match = "ends") -> bool:
    """Return whether what was said is one of the known answers (one per line)."""
    heard = normalised(said)
    return any(_matches(heard, normalised(line), match) for line in answer.splitlines() if line.strip())


def _matches(heard: str, wanted: str, match: Match) -> bool:
    if match == "equals":
        return heard == wanted
    if match == "number":
        numbers, known = _NUMBER.findall(heard), _NUMBER.findall(wanted)
        return bool(numbers and known) and float(numbers[-1]) == float(known[-1])
    if not wanted:
        return False
    ends = r"\Z" if match == "ends" else r"(?!\w)(?!\.\d)"
    return re.search(rf"(?<![\w.\-]){re.escape(wanted)}{ends}", heard) is not None
