"""One metric of a comparison: its tables by strategy and budget, and what only judged metrics have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.errors import InputError
from dfilter.leaderboard.agreement import JudgeHealth, Tally, as_wide, krippendorff_alpha, length_controlled
from dfilter.leaderboard.differences import Difference, difference
from dfilter.leaderboard.measured import (
    Estimate,
    Measured,
    are_rates,
    complete,
    estimate,
    measure,
    numbers,
)
from dfilter.leaderboard.statistics import rank_intervals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dfilter.leaderboard.cells import Cell
    from dfilter.types import EvalResult


@dataclass(frozen=True)
class Metric:
    """What a column of values is.

    Attributes:
        name: of the evaluation.
        label: what a value is, in words.
        higher_is_better: its direction.
        rate: values lie in [0, 1] and are shown in percent.
        proxy: no measure of quality.
        against: strategy that the values are already comparisons with, or "".
        health: what else than quality decided, by judge.
        alpha: Krippendorff's alpha between the judges, when several were asked.
    """

    name: str
    label: str
    higher_is_better: bool
    rate: bool
    proxy: bool
    against: str
    health: Mapping[str, JudgeHealth]
    alpha: float | None = None


Key = tuple[str, str]  # strategy, budget


@dataclass(eq=False)
class Panel:
    """One metric's tables, and its differences as they are worked out."""

    metric: Metric
    null: float | None
    measured: dict[Key, Measured]
    cells: dict[Key, list[Cell]]
    notes: tuple[str, ...] = ()

    def partner(self, key: Key, name: str) -> Measured | None:
        """Return the reference of the same size (random, longest), or the only one there is (full)."""
        if name == "full":
            return next((m for (strategy, _), m in self.measured.items() if strategy == "full"), None)
        return self.measured.get((name, self.size(key)))

    def size(self, key: Key) -> str:
        """Return the budget label of the references of the same size."""
        return self.cells[key][0].against or key[1]

    def minus(self, key: Key, name: str) -> Difference | None:
        """Return the strategy minus a reference, or none for the reference itself."""
        if key[0] == name:
            return None
        if self.null is not None and self.metric.against == name:
            return difference(self.measured[key], None, self.null)
        return difference(self.measured[key], self.partner(key, name))


def gather(name: str, cells: Sequence[Cell]) -> Panel:
    """Collect one evaluation's results from all cells.

    Raises:
        InputError: two cells of one strategy and budget have the same seed.
    """
    grouped: dict[Key, list[Cell]] = {}
    for cell in cells:
        if name in cell.results:
            grouped.setdefault((cell.strategy, cell.budget), []).append(cell)
    notes: list[str] = []
    measured = {}
    results = [cell.results[name] for group in grouped.values() for cell in group]
    rate = are_rates(results)
    for key, group in grouped.items():
        by_seed = {cell.seed: cell.results[name] for cell in group}
        if len(by_seed) < len(group):
            raise InputError(
                f"Strategy '{key[0]}' at {key[1]} has two cells with one seed; give one of them."
            )
        empty = [seed for seed, result in by_seed.items() if not np.isfinite(result.values).any()]
        if 0 < len(empty) < len(by_seed):
            notes.append(f"{key[0]} at {key[1]}, {_seeds(empty)}: no prompt has a value")
            by_seed = {seed: result for seed, result in by_seed.items() if seed not in empty}
        measured[key] = measure(name, by_seed, rate=rate)
    first = results[0]
    notes += _unheard(results)
    facts = first.facts
    null = facts.get("null")
    metric = Metric(
        name,
        _label(name, first.metric, cells),
        first.higher_is_better,
        rate,
        bool(facts.get("proxy")),
        str(facts.get("against", "")) if null is not None else "",
        _health(results),
        _alpha(results),
    )
    parity = float(null) if isinstance(null, int | float) else None
    return Panel(metric, parity, measured, grouped, tuple(notes))


def _seeds(seeds: Sequence[int]) -> str:
    named = ", ".join(map(str, sorted(seeds)))
    return f"seed {named}" if len(seeds) == 1 else f"seeds {named}"


def _label(name: str, metric: str, cells: Sequence[Cell]) -> str:
    """Return the metric's words, with the evaluation's name where another one has the same words."""
    others = (r.metric for cell in cells for other, r in cell.results.items() if other != name)
    return f"{metric} ({name})" if metric in others else metric


def _health(results: Sequence[EvalResult]) -> dict[str, JudgeHealth]:
    total: dict[str, JudgeHealth] = {}
    for result in results:
        health = result.facts.get("health")
        for judge, counts in health.items() if isinstance(health, Mapping) else ():
            total[judge] = total.get(judge, JudgeHealth()) + JudgeHealth(*counts)  # type: ignore[misc]
    return total


def _alpha(results: Sequence[EvalResult]) -> float | None:
    columns: dict[str, list[float]] = {}
    for result in results:
        judges = result.facts.get("judges")
        for judge, values in judges.items() if isinstance(judges, Mapping) else ():
            columns.setdefault(judge, []).extend(numbers(values))
    if len(columns) < 2 or len({len(c) for c in columns.values()}) > 1:
        return None
    return krippendorff_alpha(list(columns.values()), "ordinal")


def _unheard(results: Sequence[EvalResult]) -> list[str]:
    """Say why judges cannot be held against each other, where they cannot."""
    heard: dict[str, int] = {}
    for result in results:
        judges = result.facts.get("judges") or result.facts.get("health")
        for judge in judges if isinstance(judges, Mapping) else ():
            heard[judge] = heard.get(judge, 0) + 1
    if len(heard) == 1:
        return ["one judge was asked, so how far judges agree is not known (two judges are needed)"]
    return [
        f"judge {judge} was asked in {count} of {len(results)} results, so how far judges agree is not known"
        for judge, count in heard.items()
        if count < len(results)
    ]


def ranks(panel: Panel, reference: str, replicates: int) -> dict[Key, tuple[int, int]]:
    """Rank the strategies of each budget on the prompts and seeds they share."""
    found: dict[Key, tuple[int, int]] = {}
    for budget in dict.fromkeys(budget for _, budget in panel.measured):
        group = {k: m for k, m in panel.measured.items() if k[1] == budget and np.isfinite(m.values).any()}
        if not group:
            continue
        prompts = next(iter(group.values())).prompts
        common = set(prompts).intersection(*(m.prompts for m in group.values()))
        prompts = tuple(p for p in prompts if p in common)
        seeds = sorted({seed for m in group.values() for seed in m.seeds})
        tables = np.full((len(group), len(seeds), len(prompts)), math.nan)
        for index, m in enumerate(group.values()):
            tables[index, [seeds.index(s) for s in m.seeds]] = m.select(m.seeds, prompts)
        blank = np.isnan(tables).all(-1, keepdims=True)
        keep = (np.isfinite(tables) | blank).all((0, 1))
        cluster = dict(
            zip(next(iter(group.values())).prompts, next(iter(group.values())).clusters, strict=True)
        )
        keys = list(group)
        if panel.null is not None and panel.metric.against == reference and (reference, budget) not in group:
            keys.append((reference, budget))
            tables = np.concatenate([tables, np.full((1, *tables.shape[1:]), panel.null)])
        if len(keys) < 2 or keep.sum() < 2:
            continue
        intervals = rank_intervals(
            tables[..., keep],
            [cluster[p] for p, kept in zip(prompts, keep, strict=True) if kept],
            higher_is_better=panel.metric.higher_is_better,
            replicates=replicates,
        )
        found.update({key: (int(low), int(high)) for key, (low, high) in zip(keys, intervals, strict=True)})
    return found


def judged(panel: Panel, key: Key, replicates: int) -> dict[str, Any]:
    """Return what only judged evaluations have: judges apart, tallies, win rate at equal length."""
    name, cells = panel.metric.name, panel.cells[key]
    results = {cell.seed: cell.results[name] for cell in cells}
    first = next(iter(results.values()))
    judges = first.facts.get("judges")
    columns = {}
    for judge in judges if isinstance(judges, Mapping) and len(judges) > 1 else ():
        column, _ = estimate(measure(name, results, judge, rate=panel.metric.rate))
        if column:
            columns[judge] = column
    if panel.null is None:
        return {"judges": columns}
    made: dict[str, Any] = {
        "judges": columns,
        "tallies": _tallies(results.values(), panel.null),
        "winning": _winning(panel.measured[key], first, panel.null),
    }
    gaps = [result.facts.get("length_difference") for result in results.values()]
    values = panel.measured[key].values
    if replicates and all(isinstance(gap, list | tuple) and len(gap) == values.shape[1] for gap in gaps):
        length = np.array([numbers(gap) for gap in gaps], np.float64)
        keep = complete(values, length)
        if keep.sum() >= 2 and not same_gap(length[:, keep]):
            mine = panel.measured[key]
            labels = tuple(c for c, kept in zip(mine.clusters, keep, strict=True) if kept)
            names = tuple(p for p, kept in zip(mine.prompts, keep, strict=True) if kept)
            rate = difference(
                Measured(mine.seeds, names, values[:, keep], labels, mine.rate), None, panel.null
            )
            fitted = length_controlled(
                values[:, keep], length[:, keep], labels, replicates=min(replicates, 1000)
            )
            made["length_controlled"] = equal_length(fitted, rate.estimate if rate else None)
    return made


def same_gap(length: NDArray[np.float64]) -> bool:
    """Return whether all answers are longer, or shorter, by the same: nothing tells of equal length."""
    gap = length[np.isfinite(length)]
    return bool(gap.size) and bool(gap[0] != 0) and bool((gap == gap[0]).all())


def equal_length(
    fitted: tuple[float, float, float], rate: Estimate | None
) -> tuple[float, float, float] | None:
    """Return a rate at equal length, no surer than the rate itself; none where that has no interval."""
    if rate is None or not math.isfinite(rate.low):
        return None
    return as_wide(fitted, rate.value - rate.low, rate.high - rate.value)


def _tallies(results: Any, null: float) -> dict[str, Tally]:
    counts: dict[str, list[int]] = {}
    for result in results:
        sets = result.facts.get("sets") or ["all"] * len(result.prompts)
        for test_set, value in zip(sets, result.values, strict=True):
            if math.isfinite(value):
                counts.setdefault(test_set, [0, 0, 0])[1 - int(np.sign(value - null))] += 1
    tallies = {name: Tally(*three) for name, three in counts.items()}
    if len(tallies) > 1:
        tallies["all"] = Tally(*(int(sum(column)) for column in zip(*counts.values(), strict=True)))
    return tallies


def _winning(measured: Measured, first: EvalResult, null: float) -> dict[str, Estimate]:
    """Estimate (win - lose) / N + 1 by test set: the mean of 2, 1 and 0 for won, tied and lost."""
    sets: Any = first.facts.get("sets") or ["all"] * len(first.prompts)
    of = dict(zip(first.prompts, sets, strict=True))
    places = {name: [p for p in measured.prompts if of[p] == name] for name in dict.fromkeys(of.values())}
    if len(places) > 1:
        places["all"] = list(measured.prompts)
    cluster = dict(zip(measured.prompts, measured.clusters, strict=True))
    made = {}
    for name, prompts in places.items():
        points = np.sign(measured.select(measured.seeds, prompts) - null)
        labels = tuple(cluster[prompt] for prompt in prompts)
        shares = Measured(measured.seeds, tuple(prompts), (1 + points) / 2, labels, rate=True)
        found = difference(shares, None, 0.5)
        if found:
            e = found.estimate
            made[name] = replace(
                e, value=1 + 2 * e.value, low=1 + 2 * e.low, high=1 + 2 * e.high, se=2 * e.se
            )
    return made
