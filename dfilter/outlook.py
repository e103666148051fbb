"""What a comparison would take and could find, before it is started."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dfilter import registry
from dfilter import strategy as strategies
from dfilter.compare import train_and_evaluate
from dfilter.comparison import (
    OWN,
    REFERENCES,
    Comparison,
    Setting,
    prepare,
    settings_for,
    trainer_of,
)
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import DFilterError
from dfilter.evaluations import Evaluation
from dfilter.leaderboard.power import TYPICAL, plans, smallest_difference
from dfilter.plaintext import shown_lines
from dfilter.pool import Pool
from dfilter.progress import duration
from dfilter.selector import Budget
from dfilter.store.disk import write_json
from dfilter.types import Priced, Progress

PROBE_ROWS = 32
KINDS = {"heldout": "loss", "exact": "rate", "lm-eval": "rate", "pairwise": "win rate"}
JUDGED_TOKENS = (
    900,
    60,
)  # in and out: a question, two answers of some 300 tokens, and two numbers with a remark


@dataclass(frozen=True)
class Group:
    """The cells of one strategy and budget; rows are unknown where a gate decides."""

    label: str
    budget: str
    rows: int | None


def outlook(plan: Comparison, progress: Progress) -> str:
    """Return the plan of a comparison as text: cells, tokens, minutes, judge calls, and what it can detect.

    Nothing is left behind: the probe trains in a folder of its own, and no judge is asked.
    """
    with tempfile.TemporaryDirectory(prefix="dfilter-plan-") as folder:
        setting = prepare(replace(plan, out=Path(folder)), progress)
        rows = load(setting.data, progress=progress)
        found = groups(plan, len(rows))
        lines = [*_cells(plan, found), *_training(setting, found, rows, progress)]
        lines += [*_selection_price(plan, rows), *_judging(setting, found), *_power(setting, found)]
    return shown_lines(lines)


def groups(plan: Comparison, usable: int) -> list[Group]:
    """Return every strategy and budget, references included."""
    found = []
    for source in (s for s in plan.strategies if s not in REFERENCES):
        made = strategies.load(source)
        for budget in plan.keep:
            keep = made.keep if budget == OWN else budget
            found.append(Group(made.name, budget, _rows(keep, usable)))
    sizes = sorted({g.rows for g in found if g.rows is not None})
    found += [
        Group(name, str(size), size) for name in REFERENCES[:2] if name in plan.references for size in sizes
    ]
    return found + [Group("full", "full", usable)] * ("full" in plan.references)


def _rows(keep: str | None, usable: int) -> int | None:
    budget = Budget.parse(keep) if keep else None
    return None if budget is None or budget.unit == "tokens" else min(usable, budget.rows(usable))


def _cells(plan: Comparison, found: Sequence[Group]) -> Iterator[str]:
    yield f"{len(found) * plan.seeds} cells: {len(found)} strategies and budgets, {plan.seeds} seeds each"
    for group in found:
        size = "as many rows as pass its gate" if group.rows is None else f"{group.rows:,} rows"
        yield f"  {group.label:<16} {group.budget:>8}  {size}"


def _training(setting: Setting, found: Sequence[Group], rows: Dataset, progress: Progress) -> Iterator[str]:
    """Train on a few rows and scale up."""
    plan = setting.plan
    some = np.random.default_rng(0).permutation(len(rows))[:PROBE_ROWS]
    probe = plan.out / "probe"
    probe.mkdir(parents=True)
    rows.write(probe / "rows.jsonl", np.sort(some))
    job = {
        "rows": str(probe / "rows.jsonl"),
        "seed": 0,
        "trainer": plan.trainer,
        "train": trainer_of(plan),
        "evaluations": {},
        "opponents": {},
    }
    write_json(probe / "job.json", job)
    with progress.stage("probe"):
        failed = train_and_evaluate(probe)
    if failed:
        yield f"The probe of {plan.model} failed, and so would every cell: {failed}"
        return
    measured = json.loads((probe / "model" / "training.json").read_text(encoding="utf-8"))
    total = sum(g.rows or 0 for g in found) * plan.seeds
    tokens = measured["trained_tokens"] / len(some) * total
    minutes = measured["seconds"] / len(some) * total
    unknown = "; cells of unknown size come on top" if any(g.rows is None for g in found) else ""
    yield f"Training: about {tokens:,.0f} trained tokens, {duration(minutes)} on this machine{unknown}"
    yield f"  (a probe of {len(some)} rows took {duration(measured['seconds'])}; evaluation comes on top)"


def _selection_price(plan: Comparison, rows: Dataset) -> Iterator[str]:
    for source in (s for s in plan.strategies if s not in REFERENCES):
        for made in strategies.load(source, settings_for(plan, strategies.load(source))).filters:
            if isinstance(made, Priced):
                try:
                    yield from (line for entry in made.quote(Pool(rows)) for line in entry.lines())
                except DFilterError as error:
                    yield f"Strategy {source} has no price yet: {error}"


def _judging(setting: Setting, found: Sequence[Group]) -> Iterator[str]:
    from dfilter.llm.prices import price_of

    cells = len(found) * setting.plan.seeds
    for entry in setting.evaluations:
        made: Any = registry.create("evaluators", entry.kind, entry.settings)
        calls = made.calls() * cells if "judges" in entry.settings else 0
        if not calls:
            continue
        yield f"Judging ({entry.name}): up to {calls:,} calls"
        for judge in setting.plan.judges:
            price = price_of(judge)
            each = calls / len(setting.plan.judges)
            said = (
                "its price is unknown"
                if price is None
                else f"about ${price.cost(*JUDGED_TOKENS) * each:,.2f}"
            )
            yield f"  {judge}: {said} at {JUDGED_TOKENS[0]} tokens in and {JUDGED_TOKENS[1]} out a call"


def _power(setting: Setting, found: Sequence[Group]) -> Iterator[str]:
    plan = setting.plan
    comparisons = max(1, len([g for g in found if g.label not in {"random", "full"}]))
    for entry in setting.evaluations:
        noise = TYPICAL.get(KINDS.get(entry.kind, ""))
        prompts = _prompts(entry)
        if noise is None or prompts < 2:
            continue
        verdicts = "1 verdict" if comparisons == 1 else f"{comparisons} verdicts"
        reach = smallest_difference(noise, plan.seeds, prompts, comparisons=comparisons)
        yield (
            f"{entry.name}: {prompts:,} prompts and {plan.seeds} seeds find a difference of {reach:.3g} "
            f"({KINDS[entry.kind]}) with 80% power, at usual noise and {verdicts}"
        )
        effect = plan.margin or reach / 2
        for option in plans(effect, noise, comparisons=comparisons):
            need = f"{option.prompts:,} prompts" if option.prompts else "more prompts than 100,000"
            yield f"  a difference of {effect:.3g} needs {need} with {option.seeds} seeds"
    if plan.seeds < 3:
        yield "Fewer than three seeds: the table will have intervals, and no verdicts"


def _prompts(entry: Evaluation) -> int:
    source = Path(str(entry.settings.get("source", "")))
    if not source.is_file():
        return 0
    with source.open("rb") as file:
        return sum(1 for line in file if line.strip())
