"""One strategy on one dataset: rows in, a selection with the reason for every row out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dfilter import strategy as strategies
from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.data.ingest import OnBadRows
from dfilter.data.targets import load_target
from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.looked_at import pooled
from dfilter.pool import Pool, Store
from dfilter.progress import Silent
from dfilter.scoring import checked, jsonable, part
from dfilter.selector import Budget, as_groups, choose, ranking, within_tokens
from dfilter.store.shards import key_column
from dfilter.strategy import Step, Strategy
from dfilter.transforms import transformed
from dfilter.types import Example, Progress, Scores, Transform
from dfilter.view import LEVELS, report

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE = ("outside --where", "already in --always")  # verdicts of rows that no filter saw

MOST_VERDICTS = 12  # more kinds of abstention than this are details of a row, not kinds


@dataclass(frozen=True, eq=False)
class Selection:
    """What was decided about every row.

    Attributes:
        rows: all usable rows, in the order they were read.
        kept: (k,) indices into ``rows`` in rank order, best first.
        strategy: the strategy, resolved.
        scores: for each step (n,) its scores; NaN where it abstained or never saw the row.
        groups: (n,) the last step's group labels, -1 where it gave none; or none.
        verdicts: (n,) in a few words why a row was kept or dropped.
        reasons: (n,) what the filter that decided said about the row; may be empty.
        usable: rows that the budget is a share of: those that ``where`` admits.
        short: how many rows, or tokens where the budget is in tokens, are missing to the budget; a
            selection is never topped up.
        facts: figures from the filters, by step.
        always: rows that are added to every selection and counted apart.
        seed: the run's seed.
        keep: the budget as given or as the strategy has it.
        store: what was read from the store and what was computed.
        timings: seconds by stage.
        seen: for each step with windows (n,) what they showed, a place in ``dfilter.view.LEVELS``, or -1.
    """

    rows: Dataset
    kept: NDArray[np.int64]
    strategy: Strategy
    scores: Mapping[str, NDArray[np.float64]]
    groups: NDArray[np.int64] | None
    verdicts: Sequence[str]
    reasons: Sequence[str]
    usable: int
    short: int
    facts: Mapping[str, Mapping[str, Any]]
    always: Dataset | None
    seed: int
    keep: str | None
    store: Sequence[Mapping[str, Any]]
    timings: Mapping[str, float]
    seen: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.rows.take(self.indices))

    @property
    def indices(self) -> NDArray[np.int64]:
        """The kept rows in the order they were read."""
        return np.sort(self.kept)

    @property
    def ids(self) -> list[str]:
        """The ids of the kept rows, in the order they were read."""
        return [self.rows.ids[int(i)] for i in self.indices]

    @property
    def dropped(self) -> Counter[str]:
        """How many rows were dropped for which verdict."""
        kept = set(self.kept.tolist())
        return Counter(v for i, v in enumerate(self.verdicts) if i not in kept)

    def decisions(self) -> pa.Table:
        """Return one line a row: id, key, score at each step, group, kept, rank (1 is best), seen, reason.

        The key is the hash of the row's content, 16 bytes. It says which rows are equal, and it breaks ties.
        """
        import pyarrow as pa

        rank = np.zeros(len(self.rows), np.int64)
        rank[self.kept] = np.arange(1, len(self.kept) + 1)
        said = [f"{v}: {r}" if r and v != r else v for v, r in zip(self.verdicts, self.reasons, strict=True)]
        columns: dict[str, Any] = {"id": pa.array(self.rows.ids, pa.string())}
        columns["key"] = key_column(self.rows.keys)
        columns |= {f"score_{name}": pa.array(values) for name, values in self.scores.items()}
        if self.groups is not None:
            columns["group"] = pa.array(self.groups, mask=self.groups < 0)
        columns |= {
            "kept": pa.array(rank > 0),
            "rank": pa.array(rank, mask=rank == 0),
        }
        columns |= {f"seen_{n}": pa.array(LEVELS[at].tolist(), mask=at < 0) for n, at in self.seen.items()}
        columns["reason"] = pa.array(said)
        return pa.table(columns)


def select(
    rows: Any,
    *,
    strategy: str | Strategy = "kcenter",
    keep: str | float | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    where: str | Sequence[str] | None = None,
    always: Any = None,
    target: Any = None,
    format: str = "auto",  # noqa: A002 - the flag is called --format
    mapping: Mapping[str, str] | None = None,
    csv: str = "",
    config: str = "",
    split: str = "",
    on_bad_rows: OnBadRows = "auto",
    transforms: Sequence[Transform] = (),
    progress: Progress | None = None,
    store: Store | None = None,
) -> Selection:
    """Choose the part of ``rows`` that is worth training on.

    Args:
        rows: a path, a list of dicts, an Arrow table, a Hugging Face Dataset, or a Dataset of ours.
        strategy: a name, a TOML file, ``file.py:Class``, or a loaded strategy.
        keep: the budget: 1000, "9k", "5%", "200ktok"; the strategy's own when none.
        seed: everything random takes it.
        settings: ``STEP.SETTING=VALUE``, as for ``--set``.
        where: ``column=value`` conditions that restrict the pool.
        always: rows that join every selection, in any accepted form.
        target: the rows of the task to select for, in any accepted form, or "mmlu:", "bbh:" or "tydiqa:"
            and a path to their files.
        format: the rows' shape, when it cannot be detected.
        mapping: names of columns, for instance ``{"response": "answer"}``.
        csv: how fields of CSV and TSV files are told apart; see :func:`dfilter.data.load`.
        config: likewise.
        split: likewise.
        on_bad_rows: likewise.
        transforms: applied to the rows before any filter sees them.
        progress: where to report.
        store: where signals and fits live.

    Returns:
        The selection; iterate it for the kept rows.

    Raises:
        InputError: the rows cannot be read, or none is usable.
        SettingsError: the strategy, the budget or a setting is wrong.
    """
    progress = progress or Silent()
    store = store or Store()
    chosen = strategies.load(strategy, settings) if isinstance(strategy, str) else strategy
    text = str(keep) if keep is not None else chosen.keep
    budget = Budget.parse(text) if text is not None else None
    _refuse_boundless(chosen, budget)
    with progress.stage("reading"):
        how: dict[str, Any] = {"format": format, "mapping": mapping, "on_bad_rows": on_bad_rows}
        how |= {"csv": csv, "config": config, "split": split}
        data = load(rows, **how, progress=progress)
        data = transformed(data, transforms, progress)
        added = None if always is None else load(always, progress=progress)
        aim = None if target is None else load_target(target, progress=progress)
    walk = _Walk(data, chosen, budget, seed, progress, store)
    walk.restrict(where, added)
    if aim is not None:
        walk.target = Pool(aim, seed=seed, progress=progress, store=store)
    walk.steps()
    kept = walk.choose()
    return Selection(
        rows=data,
        kept=kept,
        strategy=chosen,
        scores=walk.scores,
        groups=walk.groups,
        verdicts=walk.verdicts,
        reasons=walk.reasons,
        usable=walk.usable,
        short=walk.short(kept),
        facts=walk.facts,
        always=added,
        seed=seed,
        keep=text,
        store=tuple(store.log),
        timings=dict(getattr(progress, "timings", {})),
        seen=walk.seen,
    )


def _refuse_boundless(chosen: Strategy, budget: Budget | None) -> None:
    gated = any(s.at_least is not None or s.keep or s.at_least_without_keep is not None for s in chosen.steps)
    if budget is None and not gated:
        raise SettingsError(
            f"Strategy '{chosen.name}' ranks rows but has no size of its own; give a budget, "
            "for instance --keep 5% or --keep 1000."
        )


@dataclass
class _Walk:
    """The steps of one strategy over one dataset, row by row accounted for."""

    data: Dataset
    strategy: Strategy
    budget: Budget | None
    seed: int
    progress: Progress
    store: Store
    target: Pool | None = None
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    seen: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    groups: NDArray[np.int64] | None = None
    usable: int = 0

    def __post_init__(self) -> None:
        self.alive = np.arange(len(self.data))
        self.verdicts: list[str] = ["kept"] * len(self.data)
        self.reasons: list[str] = [""] * len(self.data)

    def restrict(self, where: str | Sequence[str] | None, added: Dataset | None) -> None:
        """Leave out rows that the conditions do not admit, and rows that are added anyway."""
        if where:
            conditions = [where] if isinstance(where, str) else where
            self._drop(np.setdiff1d(self.alive, self.data.where(conditions)), OUTSIDE[0])
        self.usable = len(self.alive)
        if not self.usable:
            raise InputError(f"No row fits --where {where}.")
        if added is not None:
            theirs = {key.tobytes() for key in added.keys}
            same = [i for i in self.alive.tolist() if self.data.keys[i].tobytes() in theirs]
            self._drop(np.array(same, np.int64), OUTSIDE[1])

    def steps(self) -> None:
        """Let every filter score the rows that are left, and every gate drop what it must."""
        prior: Scores | None = None
        for number, (step, made) in enumerate(zip(self.strategy.steps, self.strategy.filters, strict=True)):
            if not len(self.alive):
                break
            last = number == len(self.strategy.steps) - 1
            pool = Pool(
                self.data.take(self.alive),
                seed=self.seed,
                wanted=self._wanted(step) if last else -1,
                target=self.target,
                prior=prior,
                progress=self.progress,
                store=self.store,
            )
            with self.progress.stage(step.name):
                given = checked(made, made.score(pool), len(self.alive))
            self._record(step, given)
            self._note_views(step, pool)
            passed = self._gate(step, given)
            self.alive = self.alive[passed]
            prior = part(given, passed)

    def choose(self) -> NDArray[np.int64]:
        """Return the kept rows in rank order and give the others their verdict."""
        last = self.strategy.steps[-1].name
        values = self.scores.get(last, np.full(len(self.data), np.nan))[self.alive]
        select = self.strategy.select
        ranked = ranking(
            values,
            self.data.keys[self.alive],
            self.data.take(self.alive).ids,
            seed=self.seed,
            sample=select.temperature if select.sample else None,
        )
        kept = self.alive[self._within(ranked)]
        self._drop(np.setdiff1d(self.alive, kept), "beyond the budget")
        return kept

    def short(self, kept: NDArray[np.int64]) -> int:
        """Return how many rows or tokens are missing to the budget when nothing more could be kept."""
        if self.budget is None:
            return 0
        if self.budget.unit != "tokens":
            return max(0, self.budget.rows(self.usable) - len(kept))
        whole = "beyond the budget" not in self.verdicts  # else the next row would be too much
        held = int(self._tokens()[np.isin(self.alive, kept)].sum()) if whole else 0
        return int(self.budget.amount) - held if whole else 0

    def _within(self, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.budget is None:
            return ranked
        if self.budget.unit == "tokens":
            fill = self.strategy.select.counter is not None
            return within_tokens(ranked, self._tokens(), int(self.budget.amount), fill=fill)
        groups = (
            None if self.strategy.select.quota is None else self._quota_groups(self.strategy.select.quota)
        )
        return choose(ranked, self.budget.rows(self.usable), groups=groups, tau=self.strategy.select.tau)

    def _wanted(self, step: Step) -> int:
        if step.keep or self.strategy.select.needs_all_ranks(self.budget) or self.budget is None:
            return -1
        return min(self.budget.rows(self.usable), len(self.alive))

    def _tokens(self) -> NDArray[np.int64]:
        from dfilter import registry

        counting = self.strategy.select.counting
        counter = registry.create("signals", counting.signal, counting.settings)
        pool = Pool(pooled(self.data.take(self.alive)), progress=self.progress, store=self.store)
        return pool.signal(counter).astype(np.int64)

    def _quota_groups(self, name: str) -> NDArray[np.int64]:
        if name == "group":
            if self.groups is None:
                raise SettingsError(
                    "select.quota = 'group' needs a filter that gives groups; name a column instead."
                )
            return self.groups[self.alive]
        values = self.data.take(self.alive).column(name)
        if all(value is None for value in values):
            raise UnknownNameError("column", name, self.data.columns)
        return as_groups(values)

    def _record(self, step: Step, given: Scores) -> None:
        values = np.full(len(self.data), np.nan)
        values[self.alive] = given.values
        self.scores[step.name] = values
        if given.facts:
            self.facts[step.name] = jsonable(given.facts)
        if given.groups is not None:
            self.groups = np.full(len(self.data), -1, np.int64)
            self.groups[self.alive] = given.groups
        if given.reasons is not None:
            for row, reason in zip(self.alive.tolist(), given.reasons, strict=True):
                self.reasons[row] = reason

    def _note_views(self, step: Step, pool: Pool) -> None:
        """Count what the step's windows did not show, and say it."""
        found = report(step.name, pool.views, pool.target.views if pool.target else None, self.progress.say)
        if found:
            self.facts[step.name] = {**self.facts.get(step.name, {}), **found}
            self.seen[step.name] = seen = np.full(len(self.data), -1, np.int64)
            seen[self.alive] = pool.views.worst()

    def _gate(self, step: Step, given: Scores) -> NDArray[np.int64]:
        """Return the positions that stay; an abstention never passes."""
        values = given.values
        stays = ~np.isnan(values)
        self._abstained(step, self.alive[~stays])
        bound = step.at_least
        if bound is None and self.budget is None:
            bound = step.at_least_without_keep
        if bound is not None:
            self._drop(self.alive[stays & (values < bound)], f"{step.name} below {bound:g}")
            stays &= ~(values < bound)
        if step.keep:
            share = Budget.parse(step.keep).rows(len(self.alive))
            ids = self.data.take(self.alive).ids
            best = ranking(np.where(stays, values, np.nan), self.data.keys[self.alive], ids, seed=self.seed)[
                :share
            ]
            left = stays.copy()
            left[best] = False
            self._drop(self.alive[left], f"{step.name} not in the best {step.keep}")
            stays &= ~left
        return np.flatnonzero(stays)

    def _abstained(self, step: Step, rows: NDArray[np.int64]) -> None:
        """Give the filter's own word for it where it has one for many rows."""
        said = {self.reasons[row] for row in rows.tolist()}
        if not said - {""} or len(said) > MOST_VERDICTS:
            self._drop(rows, f"{step.name} abstained")
            return
        for row in rows.tolist():
            self.verdicts[row] = f"{step.name}: {self.reasons[row] or 'abstained'}"
            self.reasons[row] = ""

    def _drop(self, rows: NDArray[np.int64], verdict: str) -> None:
        for row in rows.tolist():
            self.verdicts[row] = verdict
        if verdict in OUTSIDE:
            self.alive = np.setdiff1d(self.alive, rows)
