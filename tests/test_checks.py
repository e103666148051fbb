"""The contract suite: every built-in filter that can run offline passes, and broken filters are caught."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from dfilter import Example, Pool, Scores, checks, registry
from dfilter.checks import Outcome, run_checks
from dfilter.data.dataset import Dataset
from dfilter.settings import merged, parse_assignment

# What a built-in needs to run without a network: settings, or the reason why it cannot.
OFFLINE: Mapping[str, tuple[str, ...] | str] = {
    "blend": ('parts=[{filter="random"}, {filter="lima"}]',),
    "given": ('ids=["0", "1"]',),
    "judge": "asks a language-model server",
    "ifd": ('dtype="bfloat16"',),
    "less": ('dtype="bfloat16"',),
    "rds": ('dtype="bfloat16"',),
    "rds_plus": ('dtype="bfloat16"',),
}
MODELS = {"ifd", "kcenter", "duplicates", "less", "rds", "rds_plus"}
BATCHES = "batch size changes no signal beyond its tolerance"


def outcomes(name: str, settings: Sequence[str] = ()) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run_checks(name, settings)}


def settings_of(name: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for text in OFFLINE.get(name, ()):
        table = merged(table, *parse_assignment(text))
    return table


def failed(found: Mapping[str, Outcome]) -> list[str]:
    return [f"{outcome.name}: {outcome.detail}" for outcome in found.values() if outcome.state == "FAILED"]


@pytest.mark.parametrize("name", sorted(set(registry.BUILT_IN["filters"]) - MODELS))
def test_every_builtin_filter_keeps_the_contract(name: str) -> None:
    settings = OFFLINE.get(name, ())
    if isinstance(settings, str):
        pytest.skip(settings)
    assert not failed(outcomes(name, settings))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def _models_unpacked_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(home))


@pytest.mark.slow
@pytest.mark.usefixtures("_models_unpacked_once")
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_builtin_filter_that_runs_a_model_keeps_the_contract(name: str) -> None:
    settings = OFFLINE.get(name, ())
    assert not failed(outcomes(name, settings))


@pytest.mark.slow
@pytest.mark.usefixtures("_models_unpacked_once", "padding_counts")
@pytest.mark.parametrize("name", ["ifd", "kcenter", "less", "rds_plus"])  # every kind of signal once
def test_padding_that_counts_exceeds_the_tolerance_of_real_models(name: str, tmp_path: Path) -> None:
    made = registry.create("filters", name, settings_of(name))
    found = checks._outcome(BATCHES, checks.CHECKS[BATCHES], checks.Trial(made, tmp_path, 8))
    assert found.state == "FAILED"
    assert "its tolerance is" in found.detail


# Filters that break the contract, each in one way


def values(pool: Pool) -> np.ndarray:
    return np.array([len(row.text) for row in pool.rows], np.float64)


@dataclass(frozen=True)
class Good:
    deterministic: ClassVar[bool] = True

    def score(self, pool: Pool) -> Scores:
        return Scores(values(pool))


@dataclass
class NotFrozen:
    factor: int = 1

    def score(self, pool: Pool) -> Scores:
        return Scores(self.factor * values(pool))


class NoDataclass:
    def __init__(self) -> None:
        self.factor = 1

    def score(self, pool: Pool) -> Scores:
        return Scores(self.factor * values(pool))


@dataclass(frozen=True, eq=False)
class NeverEqual:
    def score(self, pool: Pool) -> Scores:
        return Scores(values(pool))


@dataclass(frozen=True)
class Infinite:
    def score(self, pool: Pool) -> Scores:
        return Scores(values(pool) / 0.0 if len(pool.rows) == 0 else np.full(len(pool.rows), math.inf))


@dataclass(frozen=True)
class Meddling:
    def score(self, pool: Pool) -> Scores:
        for row in pool.rows:
            row.fields["seen"] = True  # type: ignore[index]
        return Scores(values(pool))


@dataclass(frozen=True)
class Moody:
    def score(self, pool: Pool) -> Scores:
        return Scores(values(pool) + np.random.default_rng().random(len(pool.rows)))


@dataclass(frozen=True)
class Seeded:
    deterministic: ClassVar[bool] = True

    def score(self, pool: Pool) -> Scores:
        return Scores(values(pool) + pool.seed)


@dataclass(frozen=True)
class Positional:
    def score(self, pool: Pool) -> Scores:
        return Scores(np.arange(len(pool.rows), dtype=np.float64))


@dataclass(frozen=True)
class AbstainsByPosition:
    def score(self, pool: Pool) -> Scores:
        scores = values(pool)
        scores[:3] = np.nan
        return Scores(scores)


@dataclass(frozen=True)
class NeedsTwo:
    def score(self, pool: Pool) -> Scores:
        return Scores(values(pool) - values(pool)[1])


@dataclass(frozen=True)
class Length:
    """A signal; ``fault`` says what is wrong with it."""

    fault: Literal["none", "batch", "nan", "text"] = "none"
    power: int = 1
    named: bool = True

    def spec(self) -> Mapping[str, Any]:
        return {"fault": self.fault} | ({"power": self.power} if self.named else {})

    def compute(self, rows: Sequence[Example]) -> np.ndarray:
        alone = len(rows) == 1
        lengths = np.array([len(row.text) ** self.power for row in rows], np.float64)
        if self.fault == "batch":
            lengths += 0.0 if alone else 0.01
        if self.fault == "nan" and alone:
            lengths[:] = np.nan
        if self.fault == "text":
            out = np.zeros(len(rows), [("value", np.float64), ("status", "U8")])
            out["value"], out["status"] = lengths, "alone" if alone else "together"
            return out
        return lengths


@dataclass(frozen=True)
class BySignal:
    signal: Length = Length()

    def score(self, pool: Pool) -> Scores:
        found = pool.signal(self.signal)
        return Scores(found["value"] if found.dtype.names else found)


@dataclass(frozen=True)
class Tolerant(Length):
    allows: float = 0.1

    def tolerance(self, values: np.ndarray) -> np.ndarray:
        return np.full(len(values), self.allows)


BROKEN = {
    NotFrozen: ("settings are fields of a frozen dataclass", "not frozen"),
    NoDataclass: ("settings are fields of a frozen dataclass", "not a dataclass"),
    NeverEqual: ("settings are fields of a frozen dataclass", "not equal"),
    Infinite: ("every row gets one score, finite or NaN", "infinite"),
    Moody: ("the same seed gives the same bytes", "other|different"),
    Seeded: ("declared determinism holds", "another seed"),
    Positional: ("permuting the rows permutes the scores", "largest|did not permute"),
    AbstainsByPosition: ("permuting the rows permutes the scores", "did not permute"),
    NeedsTwo: ("a pool of one row works", "IndexError"),
}


def tried(made: Any, tmp_path: Path) -> dict[str, Outcome]:
    """Run the suite on a filter that has no name."""
    trial = checks.Trial(made, tmp_path, 20)
    return {title: checks._outcome(title, check, trial) for title, check in checks.CHECKS.items()}


def test_a_good_filter_passes_or_is_skipped_with_a_reason(tmp_path: Path) -> None:
    found = tried(Good(), tmp_path)
    assert not failed(found)
    assert {o.name: o.detail for o in found.values() if o.state == "skipped"} == {
        BATCHES: "the filter uses no signal",
        "a signal's spec names its settings": "the filter uses no signal",
    }


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_filter_is_caught_by_the_check_for_it(kind: type, tmp_path: Path) -> None:
    title, _ = BROKEN[kind]
    found = tried(kind(), tmp_path)
    assert found[title].state == "FAILED"
    assert any(word in found[title].detail for word in BROKEN[kind][1].split("|")), found[title].detail


def test_a_filter_that_declares_it_may_look_at_the_order(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Declared(Positional):
        equivariant: ClassVar[bool] = False

    found = tried(Declared(), tmp_path)
    assert found["permuting the rows permutes the scores"].state == "skipped"


def test_a_filter_that_changes_rows_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are made anew whenever they are looked at, so only rows in memory can be changed at all."""
    trial = checks.Trial(Meddling(), tmp_path, 20)
    trial.data = Dataset.from_rows([replace(row, fields=dict(row.fields)) for row in trial.data])
    title = "rows are untouched"
    assert checks._outcome(title, checks.CHECKS[title], trial).state == "FAILED"


@pytest.mark.parametrize("fault", ["batch", "nan", "text"])
def test_values_that_depend_on_the_batch_are_caught(fault: Any, tmp_path: Path) -> None:
    title = BATCHES
    assert tried(BySignal(Length()), tmp_path / "good")[title].state == "passed"
    assert tried(BySignal(Length(fault)), tmp_path)[title].state == "FAILED"


def test_a_stated_tolerance_is_allowed(tmp_path: Path) -> None:
    title = BATCHES
    assert tried(BySignal(Tolerant("batch")), tmp_path)[title].state == "passed"
    assert tried(BySignal(Tolerant("batch", allows=0.001)), tmp_path / "less")[title].state == "FAILED"


def test_a_setting_that_the_spec_leaves_out_is_caught(tmp_path: Path) -> None:
    title = "a signal's spec names its settings"
    found = tried(BySignal(Length(named=False)), tmp_path)[title]
    assert (found.state, found.detail) == ("FAILED", "Length: another power keeps the same spec")


def test_an_exception_is_a_finding_and_the_rest_goes_on(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Raises:
        def score(self, pool: Pool) -> Scores:
            raise KeyError("surprise")

    found = tried(Raises(), tmp_path)
    assert len(found) == len(checks.CHECKS)
    assert found["every row gets one score, finite or NaN"].detail == "KeyError: 'surprise'"


FILES = """
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
import numpy as np
from dfilter import Scores
from dfilter.identity import CONTENT

@dataclass(frozen=True)
class Listed:
    words: {hint} = "words.txt"
    more: tuple[str, ...] = ()
    name: str = "words"
    def score(self, pool):
        return Scores(np.zeros(len(pool.rows)))
"""


@pytest.mark.parametrize(
    ("hint", "settings", "state"),
    [
        ("str", (), "warning"),
        ("Path", (), "warning"),
        ("Annotated[str, CONTENT]", (), "passed"),
        ("str", ("words=absent.txt",), "passed"),
        ("Annotated[str, CONTENT]", ('more=["x", "words.txt"]',), "warning"),
    ],
)
def test_a_file_that_is_named_and_not_marked_is_warned_of(
    hint: str, settings: Sequence[str], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("so")
    Path("listed.py").write_text(FILES.format(hint=hint))
    found = outcomes("listed.py:Listed", settings)["settings that name files are marked"]
    assert found.state == state
    assert (state == "passed") == ("CONTENT" not in found.detail)
