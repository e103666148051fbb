"""Targets to select for: any rows, or the published examples of MMLU, BBH and TyDiQA from local files.

    FILE               any accepted form
    mmlu:FOLDER        dev questions as CSV files, one a subject; all of them, five a subject as published
                       (of a folder that holds dev and test: those in dev)
    bbh:FOLDER|FILE    chain-of-thought prompts (TASK.txt, or one JSON of task to prompt), else the
                       tasks' examples (TASK.json)
    tydiqa:FILE        gold passages in SQuAD's JSON; the first question of every language

The rows have a column ``subtask``; LESS (arXiv 2402.04333) takes the same examples, five a subject, three
a task and one a language. The prompts' wording is our own.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.data.loading import load
from dfilter.data.tasks import Chains, chain, choices, task
from dfilter.digests import json_digest
from dfilter.errors import InputError

if TYPE_CHECKING:
    from dfilter.data.dataset import Dataset

SUBTASK = "subtask"
PER_TASK, PER_LANGUAGE = 3, 1


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
    dev = path / "dev"  # of the folder that holds dev and test
    for file in _files(dev if dev.is_dir() else path, ("*.csv",)):
        for found in choices(file):
            about = found.subject.replace("_", " ")
            prompt = f"A multiple-choice question about {about}. Name the right choice.\n\n{found.text}"
            yield {"prompt": prompt, "response": f"The answer is {found.answer}.", SUBTASK: found.subject}


def _bbh(path: Path) -> Iterator[dict[str, str]]:
    texts = sorted(path.glob("*.txt")) if path.is_dir() else []
    for file in texts:
        yield from _worked(chain(file.stem, file.read_text(encoding="utf-8"), str(file)))
    for file in [] if texts else _files(path, ("*.json",)):
        found = task(file)
        if isinstance(found, dict):
            for chains in found.values():
                yield from _worked(chains)
        else:
            for one in found[:PER_TASK]:
                yield {"prompt": one.question, "response": one.answer, SUBTASK: one.task}


def _worked(found: Chains) -> Iterator[dict[str, str]]:
    """Ask each question of a few-shot prompt with the others before it as worked examples."""
    pairs = found.examples[:PER_TASK]
    for number, one in enumerate(pairs):
        others = [f"Q: {o.question}\nA: {o.answer}" for at, o in enumerate(pairs) if at != number]
        prompt = "\n\n".join([*filter(None, [found.head]), *others, f"Q: {one.question}\nA:"])
        yield {"prompt": prompt, "response": one.answer, SUBTASK: one.task}


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
