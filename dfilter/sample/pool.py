"""Makes the pool: clean rows of every family, then the faults, then a shuffle."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfilter.errors import FolderError, SettingsError
from dfilter.sample import faults, knowledge, quantities, wording
from dfilter.sample.problem import STYLE_WEIGHTS, STYLES, Family, Problem, respond
from dfilter.store.disk import disk_errors, make_folder, write_text

FAMILIES: Mapping[str, Family] = {
    "arithmetic": quantities.arithmetic,
    "unit_conversion": quantities.unit_conversion,
    "dates": quantities.dates,
    "clock": quantities.clock,
    "comparison": quantities.comparison,
    "sequence": quantities.sequence,
    "sorting": wording.sorting,
    "counting": wording.counting,
    "string_edit": wording.string_edit,
    "rewriting": wording.rewriting,
    "translation": wording.translation,
    "formatting": wording.formatting,
    "facts": knowledge.facts,
    "table_lookup": knowledge.table_lookup,
    "extraction": knowledge.extraction,
    "categorisation": knowledge.categorisation,
    "sentiment": knowledge.sentiment,
    "directions": knowledge.directions,
}
"""Apart from the flooding one, every family has about 5% of the pool, so that each can be a target."""
HELD_OUT_PER_FAMILY = 20
_PATIENCE = 10_000


@dataclass(frozen=True)
class SamplePool:
    """A pool with known faults.

    Attributes:
        pool: Alpaca rows: id, instruction, input, output. Ids and order tell nothing about faults.
        heldout: clean rows of questions that the pool does not hold: instruction, input, output,
            answer (exact; every output ends with it, apart from a full stop), task (the family).
        truth: for every row of the pool, in its order: id, family, faults (names of
            ``faults.RATES``; empty when clean), output (a clean response), answer, of (the id of
            the row that this one repeats, or null).
    """

    pool: Sequence[Mapping[str, str]]
    heldout: Sequence[Mapping[str, str]]
    truth: Sequence[Mapping[str, Any]]


@dataclass
class _Draft:
    """A row on its way: its problem, which wording it has, what it will say."""

    problem: Problem
    worded: int
    clean: str
    output: str
    faults: list[str] = field(default_factory=list)
    copy_of: _Draft | None = None


def generate(rows: int = 2000, seed: int = 0, heldout_per_family: int = HELD_OUT_PER_FAMILY) -> SamplePool:
    """Make a pool of instruction rows with planted faults, its held-out rows, and the truth.

    The same arguments give the same rows everywhere; the held-out rows depend on the seed alone.

    Args:
        rows: rows of the pool, at least 1; 100,000 and more are possible.
        seed: any integer.
        heldout_per_family: held-out rows for each of the ``FAMILIES``.

    Raises:
        SettingsError: ``rows`` is not positive, or more than the families can tell apart.
    """
    if rows < 1 or heldout_per_family < 0:
        raise SettingsError(f"A sample pool of {rows} rows was asked for; give at least 1.")
    seen: set[str] = set()
    # Random generators here are for planting faults, not for secrets.
    held = random.Random(f"{seed}/held out")  # noqa: S311
    heldout = [_held_out_row(p, held) for p in _problems(list(FAMILIES) * heldout_per_family, held, seen)]
    rng = random.Random(f"{seed}/pool/{rows}")  # noqa: S311
    count = {fault: int(rate * rows) for fault, rate in faults.RATES.items()}
    base_size = rows - count["duplicate"] - count["near_duplicate"] - count["flood"]
    names = [name for _, name in zip(range(base_size), _round_robin(rng), strict=False)]
    base = [_draft(problem, rng) for problem in _problems(names, rng, seen)]
    untouched = _spoil(base, count, rng)
    flood = _problems([faults.FLOODING_FAMILY] * count["flood"], rng, seen)
    drafts = base + [_flooding(problem, rng) for problem in flood] + _copies(untouched, count, rng)
    rng.shuffle(drafts)
    pool, truth = _written(drafts)
    return SamplePool(pool, heldout, truth)


def _round_robin(rng: random.Random) -> Iterator[str]:
    names = list(FAMILIES)
    while True:
        rng.shuffle(names)
        yield from names


def _problems(names: Iterable[str], rng: random.Random, seen: set[str]) -> list[Problem]:
    found = []
    for name in names:
        for _ in range(_PATIENCE):
            problem = FAMILIES[name](rng)
            if (fact := f"{name}:{problem.facts}") not in seen:
                break
        else:
            raise SettingsError(f"The family '{name}' has no {_PATIENCE}th new question; ask for fewer rows.")
        seen.add(fact)
        found.append(problem)
    return found


def _draft(problem: Problem, rng: random.Random) -> _Draft:
    output = respond(problem, rng.choices(STYLES, STYLE_WEIGHTS)[0], rng)
    return _Draft(problem, rng.randrange(len(problem.wordings)), output, output)


def _flooding(problem: Problem, rng: random.Random) -> _Draft:
    """A flood comes from one source: one wording, one style."""
    output = respond(problem, "terse", rng)
    return _Draft(problem, 0, output, output, ["flood"])


def _held_out_row(problem: Problem, rng: random.Random) -> dict[str, str]:
    draft = _draft(problem, rng)
    instruction, text = problem.wordings[draft.worded]
    return {
        "instruction": instruction,
        "input": text,
        "output": draft.output,
        "answer": problem.answer,
        "task": problem.family,
    }


def _spoil(base: list[_Draft], count: Mapping[str, int], rng: random.Random) -> list[_Draft]:
    """Plant the faults that change a response; return the rows that stay clean."""
    rest = base.copy()
    rng.shuffle(rest)
    for fault in ("swapped", "wrong", "truncated", "off_topic", "chatter"):
        chosen, rest = rest[: count[fault]], rest[count[fault] :]
        if fault == "swapped":
            chosen, spared = _swappable(chosen)
            rest += spared
            _swap(chosen)
        for draft in chosen:
            draft.faults.append(fault)
            if fault == "wrong":
                style = rng.choices(STYLES, STYLE_WEIGHTS)[0]
                draft.output = respond(draft.problem, style, rng, answer=draft.problem.wrong)
            elif fault == "truncated":
                draft.output = faults.truncated(draft.problem, rng)
            elif fault == "off_topic":
                draft.output = faults.off_topic(rng)
            elif fault == "chatter":
                draft.output = faults.chatter(draft.problem, rng)
    return rest


def _swappable(drafts: list[_Draft]) -> tuple[list[_Draft], list[_Draft]]:
    """Split off what cannot be paired with another family (a tiny pool only)."""
    return (drafts, []) if len({d.problem.family for d in drafts}) > 1 else ([], drafts)


def _swap(drafts: list[_Draft]) -> None:
    """Give every row the response of a row of another family where the families allow it.

    Sorted by family and moved on by the size of the largest family, nobody meets their own.
    """
    drafts.sort(key=lambda draft: draft.problem.family)
    sizes = [sum(d.problem.family == name for d in drafts) for name in FAMILIES]
    moved = [drafts[(i + max(sizes, default=0)) % len(drafts)].clean for i in range(len(drafts))]
    for draft, output in zip(drafts, moved, strict=True):
        draft.output = output


def _copies(untouched: list[_Draft], count: Mapping[str, int], rng: random.Random) -> list[_Draft]:
    """Repeat clean rows, some of them twice, in the same words or in others."""
    copies: list[_Draft] = []
    sources = iter(untouched)
    for fault in ("duplicate", "near_duplicate"):
        left = count[fault]
        while left:
            source = next(sources)
            times = min(left, rng.choice((1, 1, 2)))
            left -= times
            others = [i for i in range(len(source.problem.wordings)) if i != source.worded]
            for worded in rng.sample(others, times):
                again = _Draft(source.problem, source.worded, source.clean, source.clean, [fault], source)
                if fault == "near_duplicate":
                    again.worded = worded
                copies.append(again)
    return copies


def _written(drafts: list[_Draft]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Rows and truth of the shuffled drafts."""
    width = len(str(len(drafts)))
    ids = {id(draft): f"sample-{number:0{width}d}" for number, draft in enumerate(drafts)}
    pool, truth = [], []
    for draft in drafts:
        instruction, text = draft.problem.wordings[draft.worded]
        key = ids[id(draft)]
        pool.append({"id": key, "instruction": instruction, "input": text, "output": draft.output})
        truth.append(
            {
                "id": key,
                "family": draft.problem.family,
                "faults": draft.faults,
                "output": draft.clean,
                "answer": draft.problem.answer,
                "of": ids[id(draft.copy_of)] if draft.copy_of else None,
            }
        )
    return pool, truth


def write(out: Path, rows: int = 2000, seed: int = 0, heldout_per_family: int = 20) -> SamplePool:
    """Write ``pool.jsonl``, ``heldout.jsonl`` and ``truth.jsonl`` into the folder ``out``; see `generate`.

    Raises:
        FolderError: one of these files is there with another content.
    """
    sample = generate(rows, seed, heldout_per_family)
    named = {"heldout": sample.heldout, "truth": sample.truth, "pool": sample.pool}
    texts = {
        out / f"{name}.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        for name, lines in named.items()
    }
    with disk_errors(out):
        make_folder(out)
        for file, text in texts.items():
            if file.exists() and file.read_bytes() != text.encode():
                raise FolderError(f"{file} holds something else; choose another folder, or move it away.")
        for file, text in texts.items():
            write_text(file, text)
    return sample


def read_truth(path: Path) -> list[dict[str, Any]]:
    """Read the ``truth.jsonl`` that ``write`` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
