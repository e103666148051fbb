"""MMLU: multiple-choice questions of 57 subjects, answered by the likeliest letter (arXiv 2009.03300)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from dfilter.chat import render_prompt
from dfilter.data.tasks import LETTERS, Choice, mmlu
from dfilter.digests import json_digest
from dfilter.errors import InputError, ModelError, SettingsError
from dfilter.eval.generation import Refusal, not_shown
from dfilter.eval.heldout import CPU_TOKENS, GPU_TOKENS, _batches
from dfilter.eval.prompts import Prompt, shared_facts
from dfilter.identity import CONTENT, SHORT, settings_identity, shown
from dfilter.models import fast_dtype, load_causal, lossless_dtype
from dfilter.types import EvalResult, Json, Message
from dfilter.window import NOT_EMBEDDED, beyond, vocabulary, window

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = "The following are multiple choice questions (with answers) about {subject}."
OPENING = "The answer is:"  # of the assistant's turn


@dataclass(frozen=True)
class MMLU:
    """Share of questions where the right letter is the likeliest continuation.

    Prompt and measure are the published ones (hendrycks/test, lm-evaluation-harness's ``mmlu``; the
    former's "about" has a second space behind it, the latter's and ours has not): the subject's dev
    questions with their answers, the question, "Answer:", and the letter after it that has the highest
    probability. Examples are left out, the last first, until all fits into 2,048 tokens. In the model's
    template the assistant's turn begins "The answer is:", as in the evaluation that LESS used (arXiv
    2402.04333; open-instruct's ``eval/mmlu``).

    Attributes:
        source: a folder of MMLU's CSV files, as ``--target mmlu:`` takes it, or one of the files; see
            :mod:`dfilter.data.tasks`.
        shots: examples before each question.
        limit: questions of each subject, the first ones; all unless given.
        chat: show the question in the template that the model was trained with; false is the bare text
            of the harness.
        max_tokens: of examples and question together, where the model's window is not smaller.
    """

    source: Annotated[str, CONTENT]
    shots: int = 5
    limit: int | None = None
    chat: bool = True
    max_tokens: int = 2_048

    version: ClassVar[int] = 2  # 1 gave no reason where a question has no value

    def __post_init__(self) -> None:
        findings = refused(self.shots, self.limit)
        if self.max_tokens < 1:
            findings.append(f"max_tokens = {self.max_tokens}; a question needs more than that.")
        if findings:
            raise SettingsError(*findings)

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, what the files say, and the number format."""
        found: dict[str, Json] = {"dtype": fast_dtype()}
        if self.chat:
            found["template"] = shown("auto")
        told = [[asdict(entry) for entry in part] for part in mmlu(Path(self.source).expanduser())]
        return settings_identity(self, but=("source",)) | {"source": as_told(self.source, told)} | found

    def check(self) -> None:
        """Read the questions, and make sure that every subject has its examples.

        Raises:
            InputError: a file is not what its name says, or a subject has too few examples.
        """
        self._questions()

    def asked(self) -> list[str]:
        """Return the questions with their choices, to be looked for in training rows."""
        return [question.text for question, _ in self._questions()]

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:  # noqa: ARG002 - nothing is random here
        """Return 1 or 0 per question; equally likely letters share the 1, and NaN is what cannot be shown.

        Facts: ``fewer_shots`` counts the questions that had to do with fewer examples; ``not_shown`` has the
        reason of each without a value.

        Raises:
            InputError: see :meth:`check`; or the model can be shown no question.
            ModelError: the tokenizer does not tell the letters apart by one token.
        """
        asked = self._questions()
        scorer = _Scorer(model, chat=self.chat, max_tokens=self.max_tokens)
        prompts = [scorer.ids(question, examples) for question, examples in asked]
        values = np.full(len(asked), math.nan)
        known = {at: found for at, found in enumerate(prompts) if not isinstance(found, Refusal)}
        numbers = _numbers([question.subject for question, _ in asked])
        ids = tuple(f"{q.subject}/{number}" for (q, _), number in zip(asked, numbers, strict=True))
        refused = not_shown(ids, prompts)
        scores = scorer.letters([found for found, _ in known.values()])
        for at, row in zip(known, scores, strict=True):
            question = asked[at][0]
            likely = row[: len(question.choices)]
            best = likely == likely.max()
            values[at] = best[LETTERS.index(question.answer)] / best.sum()
        shared = [
            Prompt(name, (Message("user", q.text),), q.subject)
            for name, (q, _) in zip(ids, asked, strict=True)
        ]
        facts: dict[str, Any] = {
            "bounds": [0, 1],
            "fewer_shots": sum(used < self.shots for _, used in known.values()),
        }
        facts |= refused | shared_facts(shared)
        return EvalResult(ids, values, "MMLU", higher_is_better=True, facts=facts)

    def _questions(self) -> list[tuple[Choice, Sequence[Choice]]]:
        """Return each question with its examples."""
        examples, questions = mmlu(Path(self.source).expanduser())
        shots: dict[str, list[Choice]] = {}
        for one in examples:
            shots.setdefault(one.subject, []).append(one)
        few = sorted({q.subject for q in questions if len(shots.get(q.subject, ())) < self.shots})
        if few:
            raise InputError(
                f"{self.source} has fewer than {self.shots} examples for {len(few)} subjects, the first is "
                f"'{few[0]}' (SUBJECT_dev.csv in the folder, in its folder dev, or beside); set shots lower."
            )
        kept = first_of([question.subject for question in questions], self.limit)
        return [(questions[at], shots.get(questions[at].subject, [])[: self.shots]) for at in kept]


def as_told(source: str, told: Any) -> dict[str, Json]:
    """Return the identity of a task's folder by what its files say, wherever and however they lie."""
    return {"content": json_digest(told, 32)[:SHORT], "named": source}


def refused(shots: int, limit: int | None) -> list[str]:
    """Return what is wrong with numbers of examples and questions, a sentence each."""
    findings = []
    if shots < 0:
        findings.append(f"shots = {shots}; 0 asks without examples.")
    if limit is not None and limit < 1:
        findings.append(f"limit = {limit}; at least 1 question of each subtask is needed.")
    return findings


def first_of(names: Sequence[str], limit: int | None) -> list[int]:
    """Return the places of the first ``limit`` of each name."""
    return [at for at, number in enumerate(_numbers(names)) if limit is None or number < limit]


def _numbers(names: Sequence[str]) -> list[int]:
    """Number the entries of each name from 0."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        found.append(seen.get(name, 0))
        seen[name] = found[-1] + 1
    return found


class _Scorer:
    """A loaded model that says how likely each letter is."""

    def __init__(self, model: Path, *, chat: bool, max_tokens: int) -> None:
        self.network, self.tokenizer = load_causal(model, dtype=lossless_dtype(model))
        self.chat = chat
        self.vocabulary = vocabulary(self.network.config)
        lead, self.marks = self._marks()
        self.tail = [*self._plain(OPENING), *lead] if chat else lead
        self.limit = min(window(self.network.config, self.tokenizer), max_tokens)

    def _marks(self) -> tuple[list[int], list[int]]:
        """Return the tokens that all letters begin with, and the one that tells each from the others."""
        before = "Answer:"
        skip = len(self._plain(before))
        found = [self._plain(f"{before} {letter}")[skip:] for letter in LETTERS]
        lead = len(found[0]) - 1
        same = all(len(ids) == lead + 1 and ids[:lead] == found[0][:lead] for ids in found)
        if not same or len({ids[-1] for ids in found}) < len(LETTERS):
            raise ModelError("This model's tokenizer does not tell the letters A to J apart by one token.")
        return found[0][:lead], [ids[-1] for ids in found]

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def ids(self, question: Choice, examples: Sequence[Choice]) -> tuple[list[int], int] | Refusal:
        """Return what the model reads, and with how many examples; a refusal where even none fit in."""
        try:
            return self._ids(question, examples)
        except InputError as error:
            return Refusal(str(error))

    def _ids(self, question: Choice, examples: Sequence[Choice]) -> tuple[list[int], int] | Refusal:
        for count in range(len(examples), -1, -1):
            text = _prompt(question, examples[:count])
            if self.chat:
                ids = render_prompt((Message("user", text),), self.tokenizer)
            else:
                ids = list(self.tokenizer.encode(text, verbose=False))
            known = not beyond(ids, self.vocabulary)
            if known and len(ids) + len(self.tail) <= self.limit:
                return [*ids, *self.tail], count
        if not known:
            return Refusal(NOT_EMBEDDED)
        return Refusal(f"the question does not fit into {self.limit:,} tokens, even without examples")

    def letters(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return (n, letters) logits after each prompt."""
        import torch

        place = self.network.device
        budget = GPU_TOKENS if place.type == "cuda" else CPU_TOKENS
        found = np.zeros((len(prompts), len(LETTERS)), dtype=np.float32)
        with torch.inference_mode():
            for batch in _batches([len(ids) for ids in prompts], budget):
                sizes = torch.tensor([len(prompts[at]) for at in batch])
                width, first = int(sizes.max()), int(sizes.min()) - 1
                ids = torch.tensor([[*prompts[at], *[0] * (width - len(prompts[at]))] for at in batch])
                mask = torch.arange(width)[None] < sizes[:, None]
                out = self.network(
                    input_ids=ids.to(place),
                    attention_mask=mask.long().to(place),
                    use_cache=False,
                    logits_to_keep=width - first,
                )
                rows = torch.arange(len(batch), device=place)
                logits = out.logits[:, -(width - first) :][rows, sizes.to(place) - 1 - first]
                found[batch] = logits[:, self.marks].float().cpu().numpy()
        return found


def _prompt(question: Choice, examples: Sequence[Choice]) -> str:
    head = HEAD.format(subject=question.subject.replace("_", " "))
    shown_ones = [f"{one.text}\nAnswer: {one.answer}" for one in examples]
    return "\n\n".join([head, *shown_ones, f"{question.text}\nAnswer:"])
