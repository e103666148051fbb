"""The questions of MMLU and BBH as their projects publish them, from local files.

    mmlu    SUBJECT_dev.csv (examples) and SUBJECT_test.csv (questions) in one folder, or in folders dev and
            test: columns question, choices (one a column, or one list), answer (a letter, an index from 0,
            or a choice's text) and subject, as a header names them; without one: question, choices, answer
    bbh     TASK.json (examples), and for chains of thought TASK.txt or one JSON of task to prompt, in one
            folder, or in folders bbh and cot-prompts

Either of the two folders stands for both.
"""

from __future__ import annotations

import ast
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
_ROLES = {
    **dict.fromkeys(("question", "input", "prompt"), "question"),
    **dict.fromkeys(("answer", "target", "label", "correct_answer", "answer_idx", "answer_index"), "answer"),
    **dict.fromkeys(("choices", "options"), "choices"),
    **dict.fromkeys(("subject", "task"), "subject"),
}
_OPTION = re.compile(r"(?:(?:choice|option|answer)s?[ _-]*)?(?:([a-j])|(\d))")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"(?:array\()?\[\s*{_QUOTED}(?:(?:\s*,\s*|\s+){_QUOTED})*\s*,?\s*\](?:,\s*dtype=\w+)?\)?")
_SAID = re.compile(r"\(?([a-j])[).:]?")
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
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            told = [(at, line) for at, line in enumerate(csv.reader(handle, strict=True), start=1) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV: {error}.") from error
    header = [name.strip().casefold() for name in told[0][1]] if told else []
    columns = _named(header, str(file))
    plain = header[1:] if header[:1] == [""] else header
    numbered = len(plain) > 1 and plain == [str(at) for at in range(len(plain))]  # pandas names columns so
    lines = told[1:] if columns or numbered else told
    skipped = int(_has_index([line for _, line in lines]))
    found = []
    for at, line in lines:
        place = f"{file}, record {at}"
        found.append((place, columns.cells(line, place) if columns else _in_order(line[skipped:], place)))
    as_text = any(cells.beyond for _, cells in found)
    return [cells.choice(_SPLIT.sub("", file.stem), place, as_text=as_text) for place, cells in found]


@dataclass(frozen=True, slots=True)
class _Cells:
    """What a record of a multiple-choice question says."""

    question: str
    options: tuple[str, ...]
    said: str
    subject: str = ""

    @property
    def number(self) -> int | None:
        """The answer as an index, or none."""
        return int(self.said.partition(".")[0]) if re.fullmatch(r"\d{1,9}(?:\.0)?", self.said) else None

    @property
    def beyond(self) -> bool:
        """Whether the answer is a number that is no index: then all numbers of the file are texts."""
        return self.number is not None and self.number >= len(self.options)

    def choice(self, subject: str, place: str, *, as_text: bool) -> Choice:
        known = LETTERS[: len(self.options)]
        if not self.question:
            raise InputError(f"{place}: there is no question.")
        if len(self.options) < 2 or len(self.options) > len(LETTERS):
            raise InputError(f"{place}: {len(self.options)} choices; 2 to {len(LETTERS)} were expected.")
        letter = _SAID.fullmatch(self.said.casefold())
        same = [at for at, option in enumerate(self.options) if option.strip() == self.said]
        if letter and letter[1].upper() in known:
            at = known.index(letter[1].upper())
        elif self.number is not None and not as_text:
            at = self.number
        elif len(same) == 1:
            at = same[0]
        else:
            raise InputError(
                f"{place}: the answer '{self.said}' is neither 0 to {len(known) - 1} nor one of {known}, nor "
                "the text of one choice."
            )
        return Choice(self.subject or subject, self.question, self.options, known[at])


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a header says that things stand."""

    question: int
    answer: int
    options: tuple[int, ...]
    listed: int | None
    subject: int | None
    width: int

    def cells(self, line: Sequence[str], place: str) -> _Cells:
        if len(line) != self.width:
            raise InputError(f"{place}: {len(line)} fields; the header names {self.width}.")
        options = tuple(line[at] for at in self.options)
        if self.listed is not None:
            options = _listed(line[self.listed], place)
        while options and not options[-1].strip():
            options = options[:-1]  # a question with fewer choices than the others
        subject = "" if self.subject is None else line[self.subject].strip().replace(" ", "_")
        return _Cells(line[self.question].strip(), options, line[self.answer].strip(), subject)


def _named(header: Sequence[str], place: str) -> _Columns | None:
    """Return what a header names; none if the first record is no header."""
    roles: dict[str, int] = {}
    options: dict[int, int] = {}
    for at, name in enumerate(header):
        option = _OPTION.fullmatch(name)
        if name in _ROLES:
            roles.setdefault(_ROLES[name], at)
        elif option:
            options[LETTERS.index(option[1].upper()) if option[1] else int(option[2])] = at
    answered = "answer" in roles and (len(options) > 1 or "choices" in roles)
    if "question" not in header and not answered:
        return None
    start = min(options, default=0)
    run = start in {0, 1} and sorted(options) == list(range(start, start + len(options)))
    if "question" not in roles or not answered or not (run or "choices" in roles):
        names = ", ".join(f"'{name}'" for name in header)
        raise InputError(
            f"{place} has the columns {names}; wanted: question, choices (a list, or a column each: A, B, C, "
            "D), answer, and subject if there are several."
        )
    inner = () if "choices" in roles else tuple(options[at] for at in sorted(options))
    listed, subject = roles.get("choices"), roles.get("subject")
    return _Columns(roles["question"], roles["answer"], inner, listed, subject, len(header))


def _in_order(line: Sequence[str], place: str) -> _Cells:
    if len(line) < 4:
        raise InputError(f"{place}: {len(line)} fields; wanted: question, choices, answer.")
    return _Cells(line[0].strip(), tuple(line[1:-1]), line[-1].strip())


def _has_index(lines: Sequence[Sequence[str]]) -> bool:
    """Whether records without a header begin with their numbers, as pandas writes them."""
    return bool(lines) and all(len(line) > 4 and line[0] == str(at) for at, line in enumerate(lines))


def _listed(text: str, place: str) -> tuple[str, ...]:
    """Return a list's items: of JSON, of Python, or as numpy prints it (without commas)."""
    text = text.strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = (
            [ast.literal_eval(part) for part in re.findall(_QUOTED, text)] if _LIST.fullmatch(text) else None
        )
    if not isinstance(found, list):
        raise InputError(f'{place}: the choices \'{text[:80]}\' are no list, as ["a", "b"] would be.')
    return tuple(map(str, found))


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
