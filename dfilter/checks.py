"""The filter contract as an executable suite: ``dfilter check NAME``, and a test over every built-in.

A check says passed, skipped with a reason, warning or FAILED with what was seen.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dfilter import registry
from dfilter.data.dataset import Dataset
from dfilter.errors import DFilterError
from dfilter.identity import marks
from dfilter.pool import Pool, Store
from dfilter.scoring import checked
from dfilter.settings import merged, parse_assignment
from dfilter.store.executors import Local
from dfilter.store.shards import Shards
from dfilter.tolerance import disagreement
from dfilter.types import Bar, Filter, Scores, Signal

ROWS = 48
PERMUTED = 1e-5  # a filter may add up its rows in another order


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    name: str
    state: Literal["passed", "skipped", "warning", "FAILED"]
    detail: str = ""


class _Broken(Exception):  # noqa: N818 - a finding, not an error of the program
    """The contract is broken; the text says how."""


class _Skipped(Exception):  # noqa: N818
    """The check does not apply; the text says why."""


class _Doubtful(Exception):  # noqa: N818
    """The contract is kept, and yet; the text says what."""


@dataclass(frozen=True)
class _Recording(Local):
    """Computes locally and remembers which signals were asked for."""

    seen: dict[str, Signal] = field(default_factory=dict)

    def run(
        self, signal: Signal, rows: Dataset, shards: Sequence[NDArray[np.int64]], store: Shards, bar: Bar
    ) -> int:
        self.seen[json.dumps(signal.spec(), sort_keys=True, default=str)] = signal
        return super().run(signal, rows, shards, store, bar)


def run_checks(name: str, settings: Sequence[str] = (), rows: int = ROWS) -> Iterator[Outcome]:
    """Run every check on a filter.

    Args:
        name: a registered filter, or ``file.py:Class``.
        settings: ``SETTING=VALUE`` assignments.
        rows: size of the sample pool the filter is shown.
    """
    table: dict[str, Any] = {}
    for text in settings:
        path, value = parse_assignment(text)
        table = merged(table, path, value)
    registry.allow_code(*registry.code_in([name, table]))
    made = registry.create("filters", name, table)
    with tempfile.TemporaryDirectory(prefix="dfilter-check-") as folder:
        trial = Trial(made, Path(folder), rows)
        for title, check in CHECKS.items():
            yield _outcome(title, check, trial)


def _outcome(title: str, check: Any, trial: Trial) -> Outcome:
    try:
        check(trial)
    except _Skipped as why:
        return Outcome(title, "skipped", str(why))
    except _Doubtful as why:
        return Outcome(title, "warning", str(why))
    except _Broken as why:
        return Outcome(title, "FAILED", str(why))
    except DFilterError as error:
        return Outcome(title, "FAILED", f"the filter stopped: {error}")
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the report must go on
        return Outcome(title, "FAILED", f"{type(error).__name__}: {error}")
    return Outcome(title, "passed")


@dataclass(eq=False)
class Trial:
    """A filter, a small pool to show it, and a store of its own."""

    filter: Filter
    folder: Path
    rows: int

    def __post_init__(self) -> None:
        from dfilter import sample

        made = sample.generate(rows=max(self.rows, 50), seed=7)
        self.data = Dataset.from_rows(list(made.pool)[: self.rows])
        self.aim = Dataset.from_rows(list(made.heldout)[:6])
        self.recording = _Recording()

    def pool(self, data: Dataset | None = None, seed: int = 0, store: str = "store") -> Pool:
        """Return a pool over ``data`` (the small pool unless said), with a target beside it."""
        place = Store(folder=self.folder / store, executor=self.recording)
        aim = Pool(self.aim, seed=seed, store=place)
        return Pool(self.data if data is None else data, seed=seed, target=aim, store=place)

    def score(self, pool: Pool) -> Scores:
        """Return the filter's scores, checked for shape and range."""
        return checked(self.filter, self.filter.score(pool), len(pool.rows))


def _settings_are_frozen(trial: Trial) -> None:
    kind: Any = type(trial.filter)
    made: Any = trial.filter
    has_fields = dataclasses.is_dataclass(kind)
    if not has_fields:
        if vars(made):
            raise _Broken(f"{kind.__name__} keeps settings, but is not a dataclass")
        return
    if not kind.__dataclass_params__.frozen:
        raise _Broken(f"{kind.__name__} is a dataclass that is not frozen")
    if replace(made) != made:
        raise _Broken("the same settings make two filters that are not equal")


def _files_are_marked(trial: Trial) -> None:
    made: Any = trial.filter
    counted = marks(type(made)) if dataclasses.is_dataclass(made) else {}
    values = {name: getattr(made, name) for name, mark in counted.items() if mark is None}
    if found := [f"{name} = {str(value)!r}" for name, value in values.items() if _names_a_file(value)]:
        raise _Doubtful(
            f"{', '.join(found)} names a file, and what is stored does not follow what that says. Mark the "
            "setting, Annotated[str, dfilter.identity.CONTENT], to know the file by its contents"
        )


def _names_a_file(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_names_a_file(item) for item in value)
    if not isinstance(value, str | Path) or not str(value):
        return False
    return os.path.isfile(os.path.expanduser(value))  # noqa: PTH111, PTH113 - a text may be too long for Path


def _every_row_has_a_score(trial: Trial) -> None:
    trial.score(trial.pool())


def _rows_are_untouched(trial: Trial) -> None:
    before = [(row.id, row.messages, json.dumps(row.fields, sort_keys=True)) for row in trial.data]
    trial.score(trial.pool())
    after = [(row.id, row.messages, json.dumps(row.fields, sort_keys=True)) for row in trial.data]
    if before != after:
        raise _Broken("rows were changed while they were scored")


def _same_seed_same_bytes(trial: Trial) -> None:
    first = trial.score(trial.pool())
    again = trial.score(trial.pool())
    if first.values.tobytes() != again.values.tobytes():
        raise _Broken("two calls with one seed gave different scores")


def _declared_determinism(trial: Trial) -> None:
    if not getattr(trial.filter, "deterministic", False):
        raise _Skipped("the filter does not declare itself deterministic")
    if trial.score(trial.pool()).values.tobytes() != trial.score(trial.pool(seed=1)).values.tobytes():
        raise _Broken("declared deterministic, but another seed gave other scores")


def _order_of_rows(trial: Trial) -> None:
    if not getattr(trial.filter, "equivariant", True):
        raise _Skipped("the filter declares that the order of rows matters")
    order = np.random.default_rng(3).permutation(len(trial.data))
    straight = trial.score(trial.pool()).values
    shuffled = trial.score(trial.pool(trial.data.take(order))).values
    worst = _distance(straight[order], shuffled)
    if worst > PERMUTED:
        raise _Broken(f"permuting the rows did not permute the scores (largest difference {worst:.2g})")


def _one_row(trial: Trial) -> None:
    trial.score(trial.pool(trial.data.take(np.array([0]))))


def _signals(trial: Trial) -> list[Signal]:
    trial.score(trial.pool(store="signals"))
    if not trial.recording.seen:
        raise _Skipped("the filter uses no signal")
    return list(trial.recording.seen.values())


def _batch_size(trial: Trial) -> None:
    some = trial.data.take(np.arange(min(8, len(trial.data))))
    for signal in _signals(trial):
        together = signal.compute(some)
        single = np.concatenate([signal.compute(some.take(np.array([i]))) for i in range(len(some))])
        found = disagreement(signal, together, single)
        if found is not None:
            raise _Broken(
                f"{type(signal).__name__}: batches change {found.field or 'the value'} of row {found.row} by "
                f"{found.found:.2g}, and its tolerance is {found.allowed:.2g}"
            )


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest difference of scores, infinite where one abstains and the other does not."""
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.max(np.abs(one - other)[~np.isnan(one)], initial=0.0))


def _spec_names_settings(trial: Trial) -> None:
    for signal in _signals(trial):
        made: Any = signal
        has_fields = dataclasses.is_dataclass(made)
        if not has_fields:
            continue
        hints, counted = typing.get_type_hints(type(made)), marks(type(made))
        for entry in dataclasses.fields(made):
            other = _another(getattr(made, entry.name), hints[entry.name])
            mark = counted.get(entry.name)
            if (mark is not None and mark.counts == "not") or other is None:
                continue
            try:
                same = replace(made, **{entry.name: other}).spec() == made.spec()
            except (DFilterError, ValueError):
                continue  # the other value is refused, so it cannot share a place in the store
            if same:
                raise _Broken(f"{type(made).__name__}: another {entry.name} keeps the same spec")


def _another(value: Any, hint: Any) -> Any:
    """Return a different value of the same type, or none where there is no obvious one."""
    if typing.get_origin(hint) is Literal:
        return next((option for option in typing.get_args(hint) if option != value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return None


CHECKS = {
    "settings are fields of a frozen dataclass": _settings_are_frozen,
    "settings that name files are marked": _files_are_marked,
    "every row gets one score, finite or NaN": _every_row_has_a_score,
    "rows are untouched": _rows_are_untouched,
    "the same seed gives the same bytes": _same_seed_same_bytes,
    "declared determinism holds": _declared_determinism,
    "permuting the rows permutes the scores": _order_of_rows,
    "a pool of one row works": _one_row,
    "batch size changes no signal beyond its tolerance": _batch_size,
    "a signal's spec names its settings": _spec_names_settings,
}
