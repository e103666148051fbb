"""Targets to select for: any rows, or the published examples of MMLU, BBH and TyDiQA from local files.

    FILE               any accepted form
    mmlu:FOLDER        dev questions as CSV files, one a subject; all of them, five a subject as published
    bbh:FOLDER|FILE    chain-of-thought prompts (TASK.txt, or one JSON of task to prompt), else the
                       tasks' examples (TASK.json)
    tydiqa:FILE        gold passages in SQuAD's JSON; the first question of every language

The rows have a column ``subtask``; LESS (arXiv 2402.04333) takes the same examples, five a subject, three
a task and one a language. The prompts' wording is our own.
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.data.loading import load
from dfilter.digests import json_digest
from dfilter.errors import InputError

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset

SUBTASK = "subtask"
LETTERS = "ABCDEFGHIJ"
PER_TASK, PER_LANGUAGE = 3, 1
EXAMPLE = re.compile(r"^Q:\s*(.*?)^A:\s*(.*?)(?=^Q:|\Z)", re.DOTALL | re.MULTILINE)


def load_target(rows: Any, **options: Any) -> Dataset:
    """Return a target as a Dataset.

    Args:
        rows: what :func:`dfilter.data.load` takes, or a text ``mmlu:``, ``bbh:`` or ``tydiqa:`` and a path.
        options: handed to :func:`dfilter.data.load` for the former.

    Raises:
        InputError: the files are not there, or are not what the name says.
    """
    kind, _, place = str(rows).partition(":") if isinstance(rows, str) else ("", "", "")
    if kind not in READERS:
        return load(rows, **options)
    path = Path(place).expanduser()
    if not path.exists():
        raise InputError(f"There is no {path} (asked for as {rows}).")
    found = list(READERS[kind](path))
    if not found:
        raise InputError(f"{path} holds no examples of {kind}.")
    made = load(found)  # its digest is of what the rows say; here they stand for tasks too
    made.source = replace(made.source, path=str(rows), digest=json_digest(found, 32))
    return made


def absolute(place: str) -> str:
    """Return where rows are with the path or pattern made absolute, so that they are found from anywhere."""
    kind, colon, path = place.partition(":")
    if kind in READERS:
        return f"{kind}{colon}{Path(path).expanduser().absolute()}"
    return str(Path(place).absolute()) if is_there(place) else place


def is_there(place: str) -> bool:
    """Return whether a path exists, or a pattern fits a file."""
    return Path(place).exists() or (glob.has_magic(place) and bool(glob.glob(place, recursive=True)))  # noqa: PTH207


def subtask_column(rows: Any) -> str:
    """Return the column that names a target's subtasks, when its form says so; else an empty text."""
    return SUBTASK if isinstance(rows, str) and rows.partition(":")[0] in READERS else ""


def _mmlu(path: Path) -> Iterator[dict[str, str]]:
    for file in _files(path, ("*.csv",)):
        subject = file.stem.removesuffix("_dev").removesuffix("_test").removesuffix("_val")
        with file.open(encoding="utf-8", newline="") as handle:
            for number, line in enumerate(csv.reader(handle)):
                if number == 0 and line[:1] == ["question"]:
                    continue
                if len(line) < 4:
                    raise InputError(
                        f"{file}, record {number + 1}: {len(line)} fields; wanted: question, choices, answer."
                    )
                yield _choice(subject, line[0], line[1:-1], line[-1].strip(), f"{file}, record {number + 1}")


def _choice(subject: str, question: str, choices: list[str], answer: str, place: str) -> dict[str, str]:
    known = LETTERS[: len(choices)]
    letter = known[int(answer)] if answer.isdigit() and int(answer) < len(choices) else answer
    if letter not in known or not letter:
        raise InputError(
            f"{place}: the answer '{answer}' is neither 0 to {len(choices) - 1} nor one of {known}."
        )
    listed = "\n".join(f"{name}. {choice}" for name, choice in zip(known, choices, strict=True))
    about = subject.replace("_", " ")
    prompt = (
        f"A multiple-choice question about {about}. Name the right choice.\n\n{question.strip()}\n{listed}"
    )
    return {"prompt": prompt, "response": f"The answer is {letter}.", SUBTASK: subject}


def _bbh(path: Path) -> Iterator[dict[str, str]]:
    texts = sorted(path.glob("*.txt")) if path.is_dir() else []
    if texts:
        for file in texts:
            yield from _chain(file.stem, file.read_text(encoding="utf-8"), str(file))
        return
    for file in _files(path, ("*.json",)):
        found = _json(file)
        if isinstance(found, Mapping) and "examples" in found:
            yield from _plain(file.stem, found["examples"], str(file))
        elif isinstance(found, Mapping) and all(isinstance(text, str) for text in found.values()):
            for task, text in sorted(found.items()):
                yield from _chain(str(task), text, str(file))
        else:
            raise InputError(f"{file} holds neither a task's examples nor one prompt a task.")


def _chain(task: str, text: str, place: str) -> Iterator[dict[str, str]]:
    """Cut a few-shot prompt into its questions, the others before each as its worked examples."""
    body = text.partition("\n-----\n")[2] or text  # above the line stands a warning to those who crawl
    pairs = [(q.strip(), a.strip()) for q, a in EXAMPLE.findall(body)]
    if not pairs:
        raise InputError(f"{place}: no lines beginning with Q: and A: for {task}.")
    head = body[: body.index("Q:")].strip()
    for number, (question, answer) in enumerate(pairs[:PER_TASK]):
        others = [f"Q: {q}\nA: {a}" for at, (q, a) in enumerate(pairs[:PER_TASK]) if at != number]
        prompt = "\n\n".join([*filter(None, [head]), *others, f"Q: {question}\nA:"])
        yield {"prompt": prompt, "response": answer, SUBTASK: task}


def _plain(task: str, examples: Any, place: str) -> Iterator[dict[str, str]]:
    for example in examples[:PER_TASK]:
        if not isinstance(example, Mapping) or not {"input", "target"} <= set(example):
            raise InputError(f"{place}: an example of {task} lacks input or target.")
        yield {"prompt": str(example["input"]), "response": str(example["target"]), SUBTASK: task}


def _tydiqa(path: Path) -> Iterator[dict[str, str]]:
    taken: dict[str, int] = {}
    for file in _files(path, ("*.json",)):
        found = _json(file)
        if not isinstance(found, Mapping) or not isinstance(found.get("data"), list):
            raise InputError(f"{file} is not SQuAD's JSON: it has no list 'data'.")
        for paragraph in (p for entry in found["data"] for p in entry.get("paragraphs", ())):
            for asked in paragraph.get("qas", ()):
                language = str(asked.get("id", "")).partition("-")[0]
                answers = asked.get("answers") or ()
                if not answers or taken.get(language, 0) >= PER_LANGUAGE:
                    continue
                taken[language] = taken.get(language, 0) + 1
                prompt = f"Passage: {paragraph['context']}\n\nQuestion: {asked['question']}"
                yield {"prompt": prompt, "response": str(answers[0]["text"]), SUBTASK: language}


def _files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for pattern in patterns for file in path.glob(pattern))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error


READERS: Mapping[str, Callable[[Path], Iterator[dict[str, str]]]] = {
    "bbh": _bbh,
    "mmlu": _mmlu,
    "tydiqa": _tydiqa,
}
