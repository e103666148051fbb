"""Representation-based selection for a target: RDS and RDS+.

At large pools and budgets RDS+ beat LESS at a fraction of its cost (arXiv 2503.01807).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np

from dfilter.chat import Template
from dfilter.embed.directions import subtasks
from dfilter.embed.hidden import HiddenState
from dfilter.embed.shown import why_not
from dfilter.errors import InputError, SettingsError
from dfilter.filters.order import content_places
from dfilter.identity import DTYPE, SHOWN, WEIGHTS
from dfilter.types import Scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dfilter.data.dataset import Dataset
    from dfilter.pool import Pool

CHUNK_ROWS = 16_384
NO_NUMBER = "the model gives no finite hidden state"


@dataclass(frozen=True)
class RDS:
    """Rows whose last token's hidden state is near the target's (LESS's own baseline).

    The score is the largest, over the target's subtasks, of the mean cosine to the subtask's rows.

    Attributes:
        model: whose hidden states.
        target_by: the target's column that names subtasks.
        template: how a row is shown to the model.
        max_tokens: longer rows lose their end.
        dtype: number format of the model.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    target_by: str = ""
    template: Annotated[Template, SHOWN] = "auto"
    max_tokens: int = 2_048
    dtype: Annotated[str, DTYPE] = "auto"

    paper: ClassVar[str] = "arXiv 2402.04333 (LESS), section 5: RDS"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "prompt and response, through a language model; the target's rows"
    version: ClassVar[tuple[int, ...]] = (1, HiddenState.version)

    def __post_init__(self) -> None:
        _check("rds", self.max_tokens)

    def score(self, pool: Pool) -> Scores:
        """Return each row's mean cosine to its nearest subtask, from -1 to 1; NaN for what is not shown."""
        signal = HiddenState(self.model, "last", self.template, self.max_tokens, self.dtype)
        ours, theirs, names, subtask = _vectors(pool, signal, self.target_by, "rds")
        why = _lacking(pool, signal, ours)
        means = np.stack([theirs[subtask == group].mean(axis=0) for group in range(len(names))])
        cosines = ours @ means.T
        values = cosines.max(axis=1)
        nearest = np.where(np.isnan(values), -1, cosines.argmax(axis=1))
        reasons = [
            why.get(at) or f"cosine {v:.4f} to {names[g]}"
            for at, (v, g) in enumerate(zip(values.tolist(), nearest.tolist(), strict=True))
        ]
        facts = _facts(signal, names, why)
        return Scores(values, groups=nearest.astype(np.int64), reasons=reasons, facts=facts)


@dataclass(frozen=True)
class RDSPlus:
    """Rows whose averaged hidden states are near the target's, its rows and tasks taking turns (RDS+).

    In turn every task takes the best row that is not yet taken; within a task its target rows take
    turns. The score is minus the place in that order, so that every budget is a prefix of it.

    Attributes:
        model: whose hidden states.
        target_by: the target's column that names tasks.
        within: how a task ranks the pool: ``turns`` lets its target rows take turns, as the release does
            for a single task; ``max`` takes the largest cosine to any of them, as it does for several.
        template: how a row is shown to the model.
        max_tokens: longer rows lose their end.
        dtype: number format of the model.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    target_by: str = ""
    within: Literal["turns", "max"] = "turns"
    template: Annotated[Template, SHOWN] = "auto"
    max_tokens: int = 2_048
    dtype: Annotated[str, DTYPE] = "auto"

    paper: ClassVar[str] = "arXiv 2503.01807 (RDS+)"
    deterministic: ClassVar[bool] = True
    reads: ClassVar[str] = "prompt and response, through a language model; the target's rows"
    version: ClassVar[tuple[int, ...]] = (1, HiddenState.version)

    def __post_init__(self) -> None:
        _check("rds_plus", self.max_tokens)
        if self.within not in ("turns", "max"):
            raise SettingsError(f"rds_plus: within = '{self.within}' is neither turns nor max.")

    def score(self, pool: Pool) -> Scores:
        """Return minus the place in the order of picks; NaN beyond ``pool.wanted``, or not shown."""
        signal = HiddenState(self.model, "weighted", self.template, self.max_tokens, self.dtype)
        ours, theirs, names, subtask = _vectors(pool, signal, self.target_by, "rds_plus")
        why = _lacking(pool, signal, ours)
        shown = np.flatnonzero(~np.isnan(ours[:, 0]))
        wanted = min(pool.wanted, len(shown))
        places = content_places(pool.rows)[shown]
        tasks = []
        for group in range(len(names)):
            queries = theirs[subtask == group]
            lists = _ranked(ours[shown], queries, places, wanted, largest=self.within == "max")
            tasks.append([shown[found] for found in lists])
        values = np.full(len(ours), np.nan)
        groups = np.full(len(ours), -1, dtype=np.int64)
        for rank, (row, group) in enumerate(_picks(tasks, wanted)):
            values[row], groups[row] = -rank, group
        reasons = [
            why.get(at) or (f"pick {-v:.0f} for {names[g]}" if g >= 0 else "not reached")
            for at, (v, g) in enumerate(zip(values.tolist(), groups.tolist(), strict=True))
        ]
        return Scores(values, groups=groups, reasons=reasons, facts=_facts(signal, names, why))


def _check(name: str, max_tokens: int) -> None:
    if max_tokens < 1:
        raise SettingsError(f"{name}: max_tokens = {max_tokens} leaves nothing of a row.")


def _vectors(
    pool: Pool, signal: HiddenState, column: str, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], NDArray[np.int64]]:
    if pool.target is None or not len(pool.target.rows):
        raise InputError(f"{name} selects for a target: name its rows with --target FILE.")
    names, subtask = subtasks(pool.target, column)
    ours, theirs = pool.signal(signal), pool.target.signal(signal)
    shown = ~np.isnan(theirs[:, 0])
    lacking = [part for group, part in enumerate(names) if not shown[subtask == group].any()]
    if lacking:
        why = _why_not(pool.target.rows, np.flatnonzero(~shown), signal)
        raise InputError(
            f"'{signal.model}' can be shown no row of the target's subtask {', '.join(lacking)}: "
            f"{next(iter(why.values()), NO_NUMBER)}."
        )
    return ours.astype(np.float64), theirs[shown].astype(np.float64), names, subtask[shown]


def _lacking(pool: Pool, signal: HiddenState, ours: NDArray[np.float64]) -> dict[int, str]:
    """Return why rows have no vector, by place."""
    places = np.flatnonzero(np.isnan(ours[:, 0]))
    found = why_not(
        pool.rows,
        places,
        signal.model,
        template=signal.template,
        max_tokens=signal.max_tokens,
        labelled=False,
    )
    return {at: found.get(at, NO_NUMBER) for at in places.tolist()}


def _why_not(rows: Dataset, places: NDArray[np.int64], signal: HiddenState) -> dict[int, str]:
    shown, most = signal.template, signal.max_tokens
    return why_not(rows, places, signal.model, template=shown, max_tokens=most, labelled=False)


def _facts(signal: HiddenState, names: Sequence[str], why: Mapping[int, str]) -> dict[str, str | int]:
    where = signal.placement()
    facts: dict[str, str | int] = {
        "subtask_count": len(names),
        "model": signal.model,
        "device": where.device,
        "dtype": where.dtype,
    }
    return facts | ({"not_shown": len(why)} if why else {})


def _ranked(
    ours: NDArray[np.float64],
    queries: NDArray[np.float64],
    places: NDArray[np.int64],
    wanted: int,
    *,
    largest: bool,
) -> list[NDArray[np.int64]]:
    """Return for each query (or for their maximum) the ``wanted`` nearest rows, nearest first.

    No list needs to be longer: of its first ``wanted`` rows one is always free until all are picked.
    Rows at equal distance follow in content order.
    """
    cosines = np.empty((1 if largest else len(queries), len(ours)), dtype=np.float32)
    for start in range(0, len(ours), CHUNK_ROWS):
        part = queries @ ours[start : start + CHUNK_ROWS].T
        cosines[:, start : start + CHUNK_ROWS] = part.max(axis=0) if largest else part
    lists = []
    for row in cosines:
        # The last place is shared by all rows as near as it, so that content decides among them.
        limit = np.partition(-row, wanted - 1)[wanted - 1] if 0 < wanted < len(row) else np.inf
        near = np.flatnonzero(-row <= limit)
        lists.append(near[np.lexsort((places[near], -row[near]))][:wanted])
    return lists


def _turns(lists: Sequence[NDArray[np.int64]], taken: set[int]) -> Iterator[int]:
    """Yield rows list by list in turn, each list its next one that is not taken; the caller takes it."""
    places = [0] * len(lists)
    left = list(range(len(lists)))
    while left:
        for number in list(left):
            rows = lists[number]
            while places[number] < len(rows) and int(rows[places[number]]) in taken:
                places[number] += 1
            if places[number] == len(rows):
                left.remove(number)
            else:
                yield int(rows[places[number]])


def _picks(tasks: Sequence[Sequence[NDArray[np.int64]]], wanted: int) -> Iterator[tuple[int, int]]:
    """Yield (row, task) in the order of picks: the tasks take turns, and so do the lists of each."""
    taken: set[int] = set()
    turns = {number: _turns(lists, taken) for number, lists in enumerate(tasks)}
    while turns and len(taken) < wanted:
        for number in list(turns):
            row = next(turns[number], None)
            if row is None:
                del turns[number]
                continue
            taken.add(row)
            yield row, number
            if len(taken) == wanted:
                return
