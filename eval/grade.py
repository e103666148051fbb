"""Graded judging: each answer alone, on a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from dfilter.errors import SettingsError
from dfilter.eval.generation import Decoding, Refusal, answerable, converse, not_shown
from dfilter.eval.judging import Explain, Wording, ask_judge, judge_names, local_judges
from dfilter.eval.prompts import read_prompts, shared_facts
from dfilter.identity import CONTENT, PLACE, settings_identity
from dfilter.llm.grades import SCALES, OneOf, Scale
from dfilter.llm.server import Server
from dfilter.types import EvalResult, Json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dfilter.types import Message

LABELS = {
    "likert": "helpfulness 1 to 6",
    "quality": "quality (pass 0.5, excellent 1)",
    "safety": "share safe",
}


def lima_decoding() -> Decoding:
    """Return LIMA's sampling: nucleus 0.9 at temperature 0.7 with a repetition penalty of 1.2."""
    return Decoding(max_new_tokens=1024, temperature=0.7, top_p=0.9, repetition_penalty=1.2)


@dataclass(frozen=True)
class Grade:
    """Grades of a model's answers by judges.

    Attributes:
        source: a file of prompts (single- or multi-turn), or named sets joined by "+".
        judges: models that grade; several are averaged, and shown one by one.
        scale: likert (1 to 6), quality (fail, pass, excellent) or safety (safe, unsafe).
        samples: answers per prompt; their mean counts. With greedy decoding one is enough.
        template: a file that shows {conversation}, instead of our own wording.
        explain: whether judges explain their grades; ``no`` asks for the grade alone.
        decoding: how answers are generated.
    """

    source: Annotated[str, CONTENT]
    judges: tuple[Server, ...] = ()
    scale: Scale = "likert"
    samples: int = 5
    template: Annotated[str, PLACE] = ""
    explain: Explain = "yes"
    decoding: Decoding = field(default_factory=lima_decoding)

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        findings = local_judges(self.judges)
        if not self.judges:
            findings.append("Graded judging needs a judge: give --judge MODEL.")
        if self.samples < 1:
            findings.append(f"samples = {self.samples}; at least one answer per prompt is needed.")
        if findings:
            raise SettingsError(*findings)

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, and the words that judges read."""
        wording = Wording.load(self.template or self.scale, (), self.explain)
        return settings_identity(self, but=("explain",)) | {"wording": wording.content}

    def calls(self) -> int:
        """Return how many questions a model's evaluation asks, at most."""
        return len(self.judges) * self._samples * len(read_prompts(self.source))

    @property
    def _samples(self) -> int:
        return self.samples if self.decoding.temperature > 0 else 1

    def asked(self) -> list[str]:
        """Return the prompts, to be looked for in training rows."""
        return [prompt.text for prompt in read_prompts(self.source)]

    def shown_to(self, model: str) -> int:
        """Return how many of the prompts the model can be asked."""
        return answerable(model, [prompt.messages for prompt in read_prompts(self.source)], self.decoding)

    def check(self) -> None:
        """Read the prompts and the judge's template, before there is a model."""
        read_prompts(self.source)
        Wording.load(self.template or self.scale, ("conversation",), self.explain)

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Return one mean grade per prompt; NaN where none was understood or the prompt cannot be shown.

        Raises:
            ServerError: a judge's server refuses.
        """
        prompts = read_prompts(self.source)
        wording = Wording.load(self.template or self.scale, ("conversation",), self.explain)
        asked = [prompt.messages for prompt in prompts]
        samples = [
            converse(model, asked, self.decoding, seed=seed * 1000 + sample)
            for sample in range(self._samples)
        ]
        conversations = [turns for found, _ in samples for turns in found]
        asked_for = [at for at, turns in enumerate(conversations) if not isinstance(turns, Refusal)]
        questions = [
            wording.messages(conversation=shown(turns))
            for turns in conversations
            if not isinstance(turns, Refusal)
        ]
        ids = tuple(prompt.id for prompt in prompts)
        refused = not_shown(ids, [_one_shown(found) for found in zip(*(s for s, _ in samples), strict=True)])
        columns: dict[str, NDArray[np.float64]] = {}
        reported: dict[str, dict[str, int]] = {}
        missing = 0
        reader = OneOf(SCALES[self.scale], self.scale)
        scale = [value for _, value in SCALES[self.scale]]
        for server, name in zip(self.judges, judge_names(self.judges), strict=True):
            found, reported[name] = ask_judge(server, questions, reader, wording)
            missing += int(np.isnan(found).sum())
            grades = np.full(len(conversations), math.nan)
            grades[asked_for] = found
            columns[name] = _mean(grades.reshape(self._samples, len(prompts)))
        facts: dict[str, Any] = {
            "missing": missing,
            "samples": self._samples,
            "cut": sum(cut for _, cut in samples),
            "answers": len(questions),
            "reported_models": reported,
            "bounds": [min(scale), max(scale)],
        }
        if len(columns) > 1:
            facts["judges"] = {name: column.tolist() for name, column in columns.items()}
        facts |= refused
        values = _mean(np.array(list(columns.values())))
        return EvalResult(
            ids, values, LABELS[self.scale], higher_is_better=True, facts=facts | shared_facts(prompts)
        )


def _one_shown(samples: Sequence[tuple[Message, ...] | Refusal]) -> tuple[Message, ...] | Refusal:
    """Return one of a prompt's conversations that came to its end, else why none did."""
    return next((turns for turns in samples if not isinstance(turns, Refusal)), samples[0])


def shown(turns: tuple[Message, ...]) -> str:
    """Return a conversation as a judge reads it."""
    return "\n\n".join(f"[{turn.role}]\n{turn.content}" for turn in turns)


def _mean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is known; NaN where nothing is."""
    known = np.isfinite(table)
    total = np.where(known, table, 0.0).sum(0)
    return np.asarray(np.where(known.any(0), total / np.maximum(known.sum(0), 1), math.nan))
