"""What a comparison would take and could find, before it is started."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter import registry
from dfilter import strategy as strategies
from dfilter.compare import opponents
from dfilter.comparison import (
    REFERENCES,
    Comparison,
    Setting,
    counter_of,
    prepare,
    settings_for,
    trainer_of,
)
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import DFilterError, FolderError
from dfilter.evaluations import Evaluation
from dfilter.identity import bare
from dfilter.leaderboard.cells import read_cell
from dfilter.leaderboard.planning import TYPICAL, plans, smallest
from dfilter.leaderboard.power import Family
from dfilter.leaderboard.reach import fewest_prompts
from dfilter.leaderboard.verdicts import VERDICT_SEEDS
from dfilter.looked_at import pooled
from dfilter.places import UNKNOWN, Place, Size, lay_out
from dfilter.plaintext import shown_lines
from dfilter.pool import Pool
from dfilter.probe import Probe, probe
from dfilter.progress import duration
from dfilter.selector import Budget
from dfilter.types import Asking, Fitting, Foretelling, Priced, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = {"heldout": "loss", "exact": "rate", "mmlu": "rate", "bbh": "rate", "pairwise": "win rate"}
JUDGED_TOKENS = (
    900,
    60,
)  # in and out: a question, two answers of some 300 tokens, and two numbers with a remark
EXAMPLE = 0.05  # a difference to plan for, where no margin names one
SAMPLE_ROWS = 256  # whose tokens stand for those of a selection


@dataclass(frozen=True)
class Group:
    """The cells of one strategy and budget that are to be made.

    Rows are unknown where a gate or a budget in tokens decides.
    """

    label: str
    budget: str
    seeds: int
    rows: int | None
    tokens: int | None = None  # the budget, where it is in tokens

    @property
    def size(self) -> str:
        """How large the selections are, in words."""
        if self.tokens is not None:
            return f"{self.tokens:,} tokens to train on"
        return "as many rows as pass its gate" if self.rows is None else f"{self.rows:,} rows"


def outlook(plan: Comparison, progress: Progress) -> str:
    """Return the plan of a comparison as text: cells, tokens, minutes, judge calls, and what it can detect.

    The cells are those that would be trained, in their order. Nothing of the probe is left behind but
    what it unpacked of models, and no judge is asked.
    """
    with tempfile.TemporaryDirectory(prefix="dfilter-plan-") as folder:
        setting = prepare(replace(plan, out=Path(folder)), progress)
        rows = load(setting.data, **setting.reading, progress=progress)
        places = lay_out(plan, opponents(setting), lambda place: _foretold(place, len(rows)))
        found = groups(places, len(rows))
        open_ones = [place for place in places if not _is_there(setting, plan.out, place)]
        to_make = groups(open_ones, len(rows))
        lines = [*_cells(plan, places, found, len(open_ones))]
        lines += _training(setting, to_make, rows, progress) if to_make else ()
        lines += [*_selection_price(plan, rows), *_judging(setting, to_make), *_power(setting, found)]
    return shown_lines(lines)


def _foretold(place: Place, usable: int) -> Size | None:
    """Return what a cell's selection will hold; none where a gate or tokens decide."""
    keep = place.keep or place.strategy.keep
    if not keep:
        return None
    budget = Budget.parse(keep)
    if budget.unit == "tokens":
        return Size(0) if place.keep else None
    return Size(min(usable, budget.rows(usable)))


def groups(places: Sequence[Place], usable: int) -> list[Group]:
    """Return the cells by strategy and budget, in the order in which they are trained."""
    found = []
    for label, budget in dict.fromkeys((place.label, place.budget) for place in places):
        cells = [place for place in places if (place.label, place.budget) == (label, budget)]
        keep = cells[0].keep or cells[0].strategy.keep
        if label == "full" or budget == UNKNOWN or not keep:
            rows, tokens = (usable if label == "full" else None), None
        else:
            size = Budget.parse(keep)
            in_tokens = size.unit == "tokens"
            tokens = int(size.amount) if in_tokens else None
            rows = None if in_tokens else min(usable, size.rows(usable))
        found.append(Group(label, "own" if budget == UNKNOWN else budget, len(cells), rows, tokens))
    return found


def _is_there(setting: Setting, out: Path, place: Place) -> bool:
    """Return whether a cell is made already, as far as that is known before its rows are selected."""
    try:
        cell = read_cell(out / "cells" / place.name)
    except FolderError:  # absent or damaged
        return False
    return not cell.failed and bare(cell.protocol) == bare(setting.protocol)


def _cells(
    plan: Comparison, places: Sequence[Place], found: Sequence[Group], open_ones: int
) -> Iterator[str]:
    seeds = "1 seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    yield f"{len(places)} cells in this order: {len(found)} strategies and budgets, {seeds} each"
    for group in found:
        yield f"  {group.label:<16} {group.budget:>8}  {group.size}"
    sizes: dict[tuple[str, int], list[str]] = {}
    for group in found:
        if group.rows is not None:
            sizes.setdefault((group.label, group.rows), []).append(group.budget)
    for (label, rows), budgets in sizes.items():
        if len(budgets) > 1:
            yield f"  {' and '.join(budgets)} of {label} are {rows:,} rows each, and are trained apart"
    there = len(places) - open_ones
    if there:
        rest = f"what follows is of the other {open_ones}" if open_ones else "there is nothing to train"
        yield f"  {there} of them are in {plan.out} and are not trained again unless an input changed; {rest}"


def _training(setting: Setting, found: Sequence[Group], rows: Dataset, progress: Progress) -> Iterator[str]:
    """Train on a few rows and scale up."""
    plan = setting.plan
    with progress.stage("probe"):
        measured = probe(setting, rows, plan.out / "probe")
    if measured.failed:
        yield f"The probe of {plan.model} failed, and so would every cell: {measured.failed}"
        return
    each = {group: _tokens(setting, group, rows, measured) for group in found}
    known = {group: tokens for group, tokens in each.items() if tokens is not None}
    tokens = sum(group.seeds * count for group, count in known.items())
    seconds = sum(group.seeds * measured.seconds(count) for group, count in known.items())
    disk = sum(group.seeds for group in found) * measured.model_bytes
    unknown = "; cells of unknown size come on top" if len(known) < len(found) else ""
    yield (
        f"Training and evaluation: about {tokens:,.0f} trained tokens, {duration(seconds)} on this machine, "
        f"{disk / 1e6:,.0f} MB of models{unknown}"
    )
    spent = sum(measured.evaluations.values())
    yield (
        f"  (a probe of {measured.rows} rows: {duration(measured.start)} a cell to start and save, "
        f"{duration(measured.training)} for {measured.tokens:,} tokens; evaluation {duration(spent)} a cell)"
    )
    for name in measured.unmeasured:
        yield f"  What {name} takes is not in this"
    yield "  Selecting comes on top; what is stored already costs nothing"


def _tokens(setting: Setting, group: Group, rows: Dataset, measured: Probe) -> float | None:
    """Return the tokens that a cell trains on; none where its size is not known."""
    plan = setting.plan
    number = group.rows
    sample = rows.take(_alike(group, rows))
    if group.tokens is not None:
        counting = counter_of(plan)
        counter = registry.create("signals", counting.signal, counting.settings)
        number = max(1, round(group.tokens / max(float(np.mean(counter.compute(pooled(sample)))), 1.0)))
    if number is None:
        return None
    trainer = registry.create("trainers", plan.trainer, trainer_of(plan))
    if isinstance(trainer, Foretelling):
        return float(trainer.trained_tokens(sample, number))
    return measured.tokens / measured.rows * number


def _alike(group: Group, rows: Dataset) -> NDArray[np.int64]:
    """Return the positions of rows that are as long as a group's will be: the longest, or any."""
    if group.label == "longest" and group.rows is not None:
        order = np.argsort(-rows.lengths, kind="stable")[: group.rows]
    else:
        order = np.random.default_rng(0).permutation(len(rows))
    return np.sort(order[:: max(1, len(order) // SAMPLE_ROWS)][:SAMPLE_ROWS])


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

    cells = sum(group.seeds for group in found)
    for entry in setting.evaluations:
        made: Any = registry.create("evaluators", entry.kind, entry.settings)
        calls = made.calls() * cells if "judges" in entry.settings else 0
        if not calls:
            continue
        yield f"Judging ({entry.name}): up to {calls:,} calls"
        for settings in entry.settings["judges"]:
            judge, each = settings["model"], calls / len(entry.settings["judges"])
            price = price_of(judge, settings.get("price", ""))
            said = (
                "its price is unknown"
                if price is None
                else f"about ${price.cost(*JUDGED_TOKENS) * each:,.2f}"
            )
            yield f"  {judge}: {said} at {JUDGED_TOKENS[0]} tokens in and {JUDGED_TOKENS[1]} out a call"


def _power(setting: Setting, found: Sequence[Group]) -> Iterator[str]:
    plan = setting.plan
    sizes = Counter(g.budget for g in found if g.label not in {"random", "full"})
    verdicts = sizes.total() * len(setting.evaluations)
    if verdicts and any(g.label == "random" for g in found):
        for entry in setting.evaluations:
            parity = entry.kind == "pairwise" and entry.settings.get("against", "random") == "random"
            yield from _findable(entry, plan, Family(verdicts, min(sizes.values()), parity=parity))
    if plan.seeds < VERDICT_SEEDS:
        yield "Fewer than three seeds: the table will have intervals, and no verdicts"


def _findable(entry: Evaluation, plan: Comparison, family: Family) -> Iterator[str]:
    """Say what an evaluation can find by the test that decides in its table, and what an effect needs."""
    unit = KINDS.get(entry.kind, "")
    asked, prompts = _prompts(entry, plan.model)
    if prompts < asked:
        yield f"{entry.name}: {asked - prompts:,} of {asked:,} prompts cannot be shown to {plan.model}"
    kind, least = TYPICAL.get(unit), fewest_prompts(family.tests)
    table = "1 verdict" if family.tests == 1 else f"{family.tests} verdicts"
    possible = not 0 < prompts < least
    if not possible:
        held = "1 prompt allows" if prompts == 1 else f"{prompts} prompts allow"
        yield f"{entry.name}: {held} no verdict where a table has {table}; {least} are needed at least"
    if kind is None:
        yield f"{entry.name}: nothing is known of its noise, and so not what difference it would find"
        return
    reach = smallest(kind, max(plan.seeds, VERDICT_SEEDS), prompts, family)
    if possible and plan.seeds >= VERDICT_SEEDS and prompts:
        what = f"a difference of {reach:.3g} ({unit})" if math.isfinite(reach) else f"no difference ({unit})"
        yield (
            f"{entry.name}: {prompts:,} prompts and {plan.seeds} seeds find {what} "
            f"with 80% power, at usual noise and {table}"
        )
    effect = plan.margin or (reach / 2 if math.isfinite(reach) else EXAMPLE)
    named = f"  {entry.name}: a difference of {effect:.3g} ({unit})"
    room = kind.room(parity=family.parity)
    if effect >= room:
        yield f"{named} cannot be; the largest there is is {room:g}"
        return
    for option in plans(effect, kind, family=family):
        need = f"{option.prompts:,} prompts" if option.prompts else "more prompts than 100,000"
        yield f"{named} needs {need} with {option.seeds} seeds"


def _prompts(entry: Evaluation, model: str) -> tuple[int, int]:
    """Return how many prompts an evaluation has, and how many get a value; 0 where it does not tell."""
    made = registry.create("evaluators", entry.kind, entry.settings)
    asked = len(made.asked()) if isinstance(made, Asking) else 0
    try:
        return asked, made.shown_to(model) if isinstance(made, Fitting) else asked
    except DFilterError:  # a trainer of the user's own may call something a model that is none of ours
        return asked, asked
