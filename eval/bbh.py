"""BIG-Bench Hard: 27 tasks whose answers are generated and compared (arXiv 2210.09261)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from dfilter.data.tasks import Chains, Example, bbh
from dfilter.errors import InputError, SettingsError
from dfilter.eval.generation import Decoding, Refusal, answer, answerable, counted
from dfilter.eval.mmlu import as_told, first_of, refused
from dfilter.eval.prompts import Prompt, shared_facts
from dfilter.identity import CONTENT, settings_identity
from dfilter.types import EvalResult, Json, Message

_SAID = re.compile(r"the answer is:?\s+(.*?)(?:\.(?=\s|\Z)|\n|\Z)", re.IGNORECASE)
_OPTION = re.compile(r"\(([a-r])\)")
_EDGES = " \t\"'`*"
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class BBH:
    """Share of questions whose generated answer is the known one.

    As published: three worked examples, the question, greedy decoding, exact match. Where the folder
    has the project's chains of thought, they are the examples and every question counts; else the first
    examples of each task are shown with their answers alone, and the others are the questions. Right is
    what follows the first "the answer is" up to the end of its sentence, or the first line where that was
    not said; letters' case, quotation marks and a full stop do not count, and "(B) apples" is "(B)".
    open-instruct's ``eval/bbh``, which LESS used, is near: it begins the assistant's turn with the "A:"
    that ends our question, wants the words "So the answer is", and drops punctuation, not an option's text.

    Attributes:
        source: a folder of BBH's files, as ``--target bbh:`` takes it, or one of its JSON files; see
            :mod:`dfilter.data.tasks`.
        shots: examples before each question.
        limit: questions of each task, the first ones; all unless given.
        decoding: how answers are generated; chains of thought need some 500 tokens, answers alone 100.
    """

    source: Annotated[str, CONTENT]
    shots: int = 3
    limit: int | None = None
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=512))

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        findings = refused(self.shots, self.limit)
        if findings:
            raise SettingsError(*findings)

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, and what the files say."""
        chains, examples = bbh(Path(self.source).expanduser())
        told = [{task: asdict(one) for task, one in chains.items()}, [asdict(one) for one in examples]]
        return settings_identity(self, but=("source",)) | {"source": as_told(self.source, told)}

    def check(self) -> None:
        """Read the questions and their examples.

        Raises:
            InputError: a file is not what its name says, or a task has too few examples.
        """
        self._prompts()

    def asked(self) -> list[str]:
        """Return the questions, to be looked for in training rows."""
        return [prompt.text for prompt, _ in self._prompts()]

    def shown_to(self, model: str) -> int:
        """Return how many of the questions the model can be asked."""
        return answerable(model, [[Message("user", text)] for _, text in self._prompts()], self.decoding)

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Return 1 or 0 per question; NaN where the model's template cannot show it.

        Raises:
            InputError: see :meth:`check`.
        """
        prompts = self._prompts()
        said = answer(model, [[Message("user", text)] for _, text in prompts], self.decoding, seed=seed)
        pairs = zip(said, prompts, strict=True)
        values = np.array(
            [math.nan if isinstance(a, Refusal) else is_right(a.text, p.answer) for a, (p, _) in pairs],
            dtype=np.float64,
        )
        shared = [prompt for prompt, _ in prompts]
        ids = tuple(prompt.id for prompt in shared)
        facts: dict[str, Any] = {"bounds": [0, 1]} | counted(ids, said)
        return EvalResult(ids, values, "BBH", higher_is_better=True, facts=facts | shared_facts(shared))

    def _prompts(self) -> list[tuple[Prompt, str]]:
        """Return each question with its answer, and what the model is asked."""
        chains, examples = bbh(Path(self.source).expanduser())
        tasks: dict[str, list[Example]] = {}
        for one in examples:
            tasks.setdefault(one.task, []).append(one)
        found = []
        for task, ones in tasks.items():
            worked = chains.get(task) or Chains("", tuple(ones[: self.shots]))
            own = 0 if task in chains else self.shots
            if len(worked.examples) < self.shots or len(ones) <= own:
                raise InputError(
                    f"{self.source}: {task} has {len(worked.examples)} worked examples and "
                    f"{max(0, len(ones) - own)} questions; {self.shots} and at least 1 are needed."
                )
            for at in first_of([task] * (len(ones) - own), self.limit):
                one = ones[own + at]
                prompt = Prompt(f"{task}/{own + at}", (Message("user", one.question),), task, one.answer)
                found.append((prompt, _shown(one, worked, self.shots)))
        return found


def is_right(said: str, answer: str) -> bool:
    """Return whether what was said ends in the known answer; see :class:`BBH`."""
    told = _SAID.search(said)
    lines = [line for line in said.splitlines() if line.strip()]
    heard = _plain(told[1] if told else lines[0] if lines else "")
    wanted = _plain(answer)
    option, letter = _OPTION.match(heard), _OPTION.fullmatch(wanted)
    if letter and (option or len(heard) == 1):
        return (option[1] if option else heard) == letter[1]
    return heard == wanted


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text.casefold()).strip(_EDGES).removesuffix(".").strip(_EDGES)


def _shown(question: Example, worked: Chains, shots: int) -> str:
    examples = [f"Q: {one.question}\nA: {one.answer}" for one in worked.examples[:shots]]
    return "\n\n".join([*filter(None, [worked.head]), *examples, f"Q: {question.question}\nA:"])
