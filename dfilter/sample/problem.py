"""One question with an exact answer, and the ways it is worded and answered."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dfilter.sample.guides import GUIDES, Guide

Wording: TypeAlias = tuple[str, str]  # Alpaca's instruction and input


@dataclass(frozen=True, slots=True)
class Problem:
    """A question apart from its wording.

    Attributes:
        family: the task family.
        facts: what is asked; two problems with equal facts are the same question.
        wordings: at least four ways to ask it.
        answer: the exact answer; every clean response ends with it.
        wrong: an answer of the same kind that is not right.
        steps: how one gets there, without the answer itself.
    """

    family: str
    facts: str
    wordings: tuple[Wording, ...]
    answer: str
    wrong: str
    steps: str


Family: TypeAlias = Callable[[random.Random], Problem]

STYLES = ("terse", "sentence", "explained", "guided", "taught")
STYLE_WEIGHTS = (32, 22, 34, 8, 4)
"""From a bare answer to a lesson of over 1,200 characters, independent of the family and of truth."""

_LEADS = ("The answer is {}", "Answer: {}", "Result: {}", "This gives {}")
_CLOSINGS = ("So the answer is {}", "The answer is {}", "That gives {}", "Answer: {}")


def respond(problem: Problem, style: str, rng: random.Random, answer: str | None = None) -> str:
    """Return a response in one of ``STYLES``; it ends with the answer, apart from a full stop.

    Args:
        problem: what was asked.
        style: one of ``STYLES``.
        rng: picks the lead-in.
        answer: another answer than the right one.
    """
    said = problem.answer if answer is None else answer
    if style == "terse":
        return said
    stop = "" if said.endswith((".", "!", "?", "}")) else "."
    if style == "sentence":
        return rng.choice(_LEADS).format(said) + stop
    closing = f"{problem.steps} {rng.choice(_CLOSINGS).format(said)}{stop}"
    if style == "explained":
        return closing
    guide = GUIDES[problem.family]
    if style == "guided":
        return f"{guide.method} {guide.check}\n\n{closing}"
    return _lesson(guide, closing)


_READING = (
    "Before starting, read the task to its end and underline what is asked for, what is given, and in which"
    " form the answer is expected. It helps to say the task once more in other words, because most errors"
    " are made here and not later: a question that was read too quickly gets a correct answer to something"
    " else. Leave aside names and places that only decorate the task, but keep every number, every unit and"
    " every word that restricts what may be counted."
)
_WRITING = (
    "Work slowly and keep the intermediate results on paper, one below the other, so that each of them can be"
    " looked at again. If something seems odd on the way, stop there rather than at the end; going back one"
    " line is cheaper than starting over."
)


def _lesson(guide: Guide, closing: str) -> str:
    parts = (
        f"1. Understand the task. {_READING}",
        f"2. Know the method. {guide.method}",
        f"3. Carry it out. {_WRITING}",
        f"4. Avoid the trap. {guide.mistakes}",
        f"5. Check. {guide.check}",
        f"Applied to this task: {closing}",
    )
    return "\n\n".join(parts)


def word_all(templates: tuple[Wording, ...], **parts: object) -> tuple[Wording, ...]:
    """Fill every pair of instruction and input templates with the same parts."""
    return tuple((instruction.format(**parts), text.format(**parts)) for instruction, text in templates)
