"""The questions of MMLU and BBH as their projects publish them, from local files.

    mmlu    SUBJECT_dev.csv (examples) and SUBJECT_test.csv (questions) in one folder, or in folders dev and
            test: columns question, choices, answer (a letter or an index from 0), with or without a header
    bbh     TASK.json (examples), and for chains of thought TASK.txt or one JSON of task to prompt, in one
            folder, or in folders bbh and cot-prompts

Either of the two folders stands for both.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfilter.errors import InputError

LETTERS = "ABCDEFGHIJ"
EXAMPLE = re.compile(r"^Q:\s*(.*?)^A:\s*(.*?)(?=^Q:|\Z)", re.DOTALL | re.MULTILINE)
_SPLIT = re.compile(r"_(dev|test|val)\Z")


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question.

    Attributes:
        subject: the subtask.
        question: its text.
        choices: as many as there are.
        answer: the letter of the right one.
    """

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """The question, and every choice on a line behind its letter."""
        listed = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return "\n".join([self.question, *listed])


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer; ``answer`` is a chain of thought in a prompt's worked examples."""

    task: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Chains:
    """A task's few-shot prompt: what stands above, and its worked examples."""

    head: str
    examples: tuple[Example, ...]


def choices(file: Path) -> list[Choice]:
    """Read a CSV file of multiple-choice questions.

    Raises:
        InputError: it cannot be read; a record lacks something, or its answer is none of the choices.
    """
    subject = _SPLIT.sub("", file.stem)
    found = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            for number, line in enumerate(csv.reader(handle, strict=True), start=1):
                if line and not (number == 1 and line[0] == "question"):
                    found.append(_choice(subject, line, f"{file}, record {number}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV: {error}.") from error
    return found


def _choice(subject: str, line: Sequence[str], place: str) -> Choice:
    if len(line) < 4:
        raise InputError(f"{place}: {len(line)} fields; wanted: question, choices, answer.")
    question, *options, said = line
    answer, known = said.strip(), LETTERS[: len(options)]
    letter = known[int(answer)] if answer.isdecimal() and int(answer) < len(known) else answer
    if letter not in known or not letter:
        raise InputError(
            f"{place}: the answer '{answer}' is neither 0 to {len(options) - 1} nor one of {known}."
        )
    if not question.strip():
        raise InputError(f"{place}: there is no question.")
    return Choice(subject, question.strip(), tuple(options), letter)


def mmlu(path: Path) -> tuple[list[Choice], list[Choice]]:
    """Return MMLU's examples (dev) and its questions (test), by subject.

    Raises:
        InputError: there are no questions, or a file is not what its name says.
    """
    folder = path.parent if path.is_file() else path
    near = _near(folder, ("dev", "test"))
    asked = [path] if path.is_file() else _first(near, "*_test.csv")
    if not asked:
        asked = [file for file in _first([folder], "*.csv") if not _SPLIT.search(file.stem)]
    examples = [question for file in _first(near, "*_dev.csv") for question in choices(file)]
    questions = [question for file in asked for question in choices(file)]
    if not questions:
        raise InputError(
            f"{path} holds no questions of MMLU: no SUBJECT_test.csv in it, in its folder test, or beside it."
        )
    return examples, questions


def bbh(path: Path) -> tuple[dict[str, Chains], list[Example]]:
    """Return BBH's chains of thought by task, where there are some, and its examples.

    Raises:
        InputError: there are no examples, or a file is not what its name says.
    """
    folder = path.parent if path.is_file() else path
    near = _near(folder, ("bbh", "cot-prompts"))
    chains = {file.stem: chain(file.stem, _text(file), str(file)) for file in _first(near, "*.txt")}
    found: list[Example] = []
    for file in [path] if path.is_file() else [f for place in near for f in sorted(place.glob("*.json"))]:
        read = task(file)
        if isinstance(read, dict):
            chains |= read
        else:
            found += read
    if not found:
        raise InputError(
            f"{path} holds no examples of BBH: no TASK.json in it, in its folder bbh, or beside it."
        )
    return chains, found


def task(file: Path) -> list[Example] | dict[str, Chains]:
    """Read a JSON file: a task's examples, or prompts by task.

    Raises:
        InputError: it is neither.
    """
    try:
        found = json.loads(_text(file))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if isinstance(found, Mapping) and isinstance(found.get("examples"), list):
        return list(_examples(file.stem, found["examples"], str(file)))
    if isinstance(found, Mapping) and all(isinstance(text, str) for text in found.values()):
        return {str(name): chain(str(name), text, str(file)) for name, text in sorted(found.items())}
    raise InputError(f"{file} holds neither a task's examples nor one prompt a task.")


def _examples(name: str, examples: Sequence[Any], place: str) -> Iterator[Example]:
    for number, example in enumerate(examples, start=1):
        if not isinstance(example, Mapping) or not {"input", "target"} <= set(example):
            raise InputError(f"{place}: example {number} of {name} lacks input or target.")
        if not str(example["target"]).strip():
            raise InputError(f"{place}: example {number} of {name} has an empty target.")
        yield Example(name, str(example["input"]), str(example["target"]))


def chain(name: str, text: str, place: str) -> Chains:
    """Cut a few-shot prompt into its worked examples.

    Raises:
        InputError: it has none.
    """
    body = text.partition("\n-----\n")[2] or text  # above the line stands a warning to those who crawl
    pairs = [Example(name, q.strip(), a.strip()) for q, a in EXAMPLE.findall(body)]
    if not pairs:
        raise InputError(f"{place}: no lines beginning with Q: and A: for {name}.")
    return Chains(body[: body.index("Q:")].strip(), tuple(pairs))


def _near(folder: Path, names: tuple[str, str]) -> list[Path]:
    """Return where a set's files may lie: in the folder, in the two below it, or in the other one."""
    above = folder.parent if folder.name in names else folder
    return [folder, *(above / name for name in names if above / name != folder)]


def _first(folders: Sequence[Path], pattern: str) -> list[Path]:
    """Return the files of the first folder that has some."""
    return next((found for folder in folders if (found := sorted(folder.glob(pattern)))), [])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}.") from error
