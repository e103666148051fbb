"""A cell's figures are those of its folder, of its selection as it is now, and of one size in a row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dfilter.compare import compare
from dfilter.comparison import Comparison
from dfilter.errors import FolderError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell, read_cells
from dfilter.protocol import recorded_margin
from dfilter.store.seal import seal
from dfilter.trained import keep, kept, said
from dfilter.types import EvalResult
from dfilter.worker import work


@pytest.fixture
def plan(tmp_path: Path, in_process: None, cheap: Callable[..., Comparison]) -> Comparison:
    return cheap(tmp_path, references=("random",))


def figures(cells: list[Cell]) -> list[tuple[object, ...]]:
    return [(c.strategy, c.budget, c.seed, c.against, c.overlap, c.rows, c.selected_as) for c in cells]


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_figures_follow_a_selection_that_was_made_anew_with_the_same_rows(
    plan: Comparison, seeds: int
) -> None:
    compare(replace(plan, seeds=2, settings=("lima.min_characters=1",)))
    other = replace(plan, settings=("lima.min_characters=2",), seeds=seeds)
    compare(replace(other, force=True))
    assert (plan.out.parent / "calls").read_text().split().count("lima-8-seed0") == 1  # the same rows
    for cell in (cell for cell in read_cells(plan.out) if cell.strategy == "lima"):
        steps = json.dumps(dict(cell.selected_as))
        assert '"min_characters": 2' in steps, cell.seed
    compare(replace(other, seeds=2))  # its own folder is not refused
    compare(replace(other, out=plan.out.with_name("equal"), keep=("6",)))
    leaderboard([*read_cells(plan.out), *read_cells(plan.out.with_name("equal"))])


@pytest.mark.parametrize("pair", [
    ("lima-8-seed0", "random-8-seed0"),
    *(pytest.param(pair, marks=pytest.mark.slow) for pair in [
        ("random-8-seed0", "random-8-seed1"), ("lima-8-seed0", "lima-6-seed0"),
    ]),
])  # fmt: skip
def test_figures_of_another_cell_are_in_no_table_and_are_mended(
    plan: Comparison, pair: tuple[str, str]
) -> None:
    plan = replace(plan, keep=("8", "6"), seeds=2)
    right = figures(compare(plan))
    one, two = (plan.out / "cells" / name / "cell.json" for name in pair)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(FolderError, match="run the comparison again to mend it"):
        read_cells(plan.out)
    assert figures(compare(plan)) == right
    assert len(read_cells(plan.out)) == len(right)
    assert len((plan.out.parent / "calls").read_text().split()) == len(right)  # nothing is trained again


@pytest.mark.parametrize("name", ["cell.json", "results/near.json"])
def test_what_lost_its_checksum_is_damaged(plan: Comparison, name: str) -> None:
    compare(plan)
    file = plan.out / "cells" / "lima-8-seed0" / name
    right = file.read_bytes()
    held = json.loads(right)
    del held["checksum"]
    if "values" in held:
        held["values"][0] += 1
    else:
        held["selection_usd"] = 0.5
    file.write_text(json.dumps(held))
    with pytest.raises(FolderError, match="is damaged; run the comparison again to mend it"):
        read_cells(plan.out)
    compare(plan)
    assert file.read_bytes() == right


@pytest.mark.slow
def test_fewer_seeds_leave_one_size_in_a_row(
    plan: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("half.toml")
    file.write_text('name = "half"\nsteps = [{filter = "random", at_least = 0.5}]\n')
    plan = replace(plan, strategies=(str(file),), keep=("own", "8"), seeds=3)
    whole = figures(compare(plan))
    compare(replace(plan, seeds=1))
    held = read_cells(plan.out)
    own = [cell for cell in held if (cell.strategy, cell.budget) == ("half", "own")]
    assert len(own) == 3
    assert len({cell.against for cell in own}) == 1
    fixed = [cell for cell in held if (cell.strategy, cell.budget) == ("half", "8")]
    assert all(cell.overlap is not None for cell in fixed)  # what stands beside another seed stays there
    leaderboard(held)
    assert figures(compare(plan)) == whole


def test_a_row_of_several_sizes_is_refused() -> None:
    found = EvalResult(["p0", "p1"], np.array([0.5, 1.0]), "m", higher_is_better=True)
    cells = [Cell("half", "own", seed, against="13", results={"m": found}) for seed in (0, 1)]
    leaderboard(cells)
    with pytest.raises(FolderError, match=r"'half' at own .* of several sizes \(13, 16\)"):
        leaderboard([*cells, replace(cells[0], seed=2, against="16")])


def test_files_that_no_job_asked_for_are_no_results(
    tmp_path: Path, in_process: None, cheap: Callable[..., Comparison]
) -> None:
    plan = cheap(tmp_path, seeds=1)
    compare(plan)
    before = leaderboard(read_cells(plan.out)).render("json")
    for folder in (plan.out / "cells").iterdir():
        (asked,) = (folder / "results").glob("*.json")
        (folder / "results" / "other.json").write_bytes(asked.read_bytes())
        (folder / "results" / "notes.json").write_text("mine, and no JSON")
    assert leaderboard(read_cells(plan.out)).render("json") == before
    compare(plan)
    assert leaderboard(read_cells(plan.out)).render("json") == before
    assert (folder / "results" / "notes.json").read_text() == "mine, and no JSON"


def edited(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


@pytest.mark.parametrize("lost", [None, "cell.json", "trained.json"])
def test_what_became_of_a_finished_trainings_own_file_is_in_no_table(
    plan: Comparison, lost: str | None
) -> None:
    plan = replace(plan, references=())
    (right,) = compare(plan)
    cell = plan.out / "cells" / "lima-8-seed0"
    edited(
        cell / "model" / "training.json", f'"trained_tokens": {right.trained_tokens}', '"trained_tokens": 7'
    )
    if lost:
        (cell / lost).write_text("{}")
    compare(plan)
    (again,) = read_cells(plan.out)
    assert (again.trained_tokens, again.train_seconds) == (right.trained_tokens, right.train_seconds)


def test_a_training_that_was_sealed_and_changed_since_says_nothing(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "training.json").write_text('{"trained_tokens": 5, "seconds": NaN}')
    seal(model, "a training", into="done")
    keep(tmp_path)
    assert (kept(tmp_path) or {})["trained_tokens"] == 5
    assert (kept(tmp_path) or {})["train_seconds"] is None
    edited(model / "training.json", "5", "7")
    assert said(tmp_path)["trained_tokens"] is None
    keep(tmp_path)
    assert (kept(tmp_path) or {})["trained_tokens"] == 5


def test_a_margin_is_taken_only_as_it_was_written(plan: Comparison) -> None:
    plan = replace(plan, margin=0.25, references=())
    compare(plan)
    assert recorded_margin([plan.out]) == 0.25
    edited(plan.out / "protocol.json", '"margin": 0.25', '"margin": 0.75')
    with pytest.raises(FolderError, match=r"protocol\.json is damaged.*with --force"):
        recorded_margin([plan.out])
    (plan.out / "protocol.json").write_text('{"margin": 0.75}')
    with pytest.raises(FolderError, match=r"protocol\.json is damaged"):
        recorded_margin([plan.out])
    compare(replace(plan, force=True))
    assert recorded_margin([plan.out]) == 0.25


# What a cell lacks


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cheap: Callable[..., Comparison]) -> Comparison:
    """A comparison that is over, of three seeds; tests take a copy."""
    folder = tmp_path_factory.mktemp("done")
    plan = cheap(folder, references=("random",), seeds=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(folder / "home"))
        patch.setenv("CALLS", str(folder / "calls"))
        patch.setattr("dfilter.compare.train_and_evaluate", lambda cell: work(cell) or "")
        compare(plan)
    return plan


@pytest.fixture
def copy(done: Comparison, tmp_path: Path, in_process: None) -> Comparison:
    shutil.copytree(done.out, tmp_path / "out")
    return replace(done, out=tmp_path / "out")


def gone(file: Path) -> None:
    file.unlink()


def holding(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


LACKS = {
    "no job": ("job.json", gone),
    "a job without evaluations": ("job.json", holding('{"evaluations": {}}')),
    "no result": ("results/near.json", gone),
    "no cell": ("cell.json", gone),
}


@pytest.mark.parametrize("case", LACKS)
def test_a_cell_that_lacks_something_is_named_under_the_table_and_mended(copy: Comparison, case: str) -> None:
    name, damage = LACKS[case]
    right = leaderboard(read_cells(copy.out)).render("json")
    damage(copy.out / "cells" / "lima-8-seed1" / name)
    board = leaderboard(read_cells(copy.out))
    (said,) = board.failed
    assert said.startswith("lima at 8, seed 1: ")
    assert said.endswith("run the comparison again")
    assert {row.strategy: len(row.seeds) for row in board.rows} == {"lima": 2, "random": 3}
    assert leaderboard(compare(copy)).render("json") == right
    assert leaderboard(read_cells(copy.out)).render("json") == right


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"evaluations": [1]}', '{"evaluations": {"near": "x"}}', '{"rows": 3}']
)
def test_a_damaged_job_is_refused_in_a_sentence(copy: Comparison, text: str) -> None:
    job = copy.out / "cells" / "lima-8-seed1" / "job.json"
    job.write_text(text)
    with pytest.raises(FolderError, match=r"job\.json is damaged.*run the comparison again to mend it"):
        read_cells(copy.out)


@pytest.mark.parametrize("other", ["random-8-seed1/job.json", "lima-8-seed1/cell.json"])
def test_a_job_that_is_not_the_cells_is_mended(copy: Comparison, other: str) -> None:
    right = leaderboard(read_cells(copy.out)).render("json")
    job = copy.out / "cells" / "lima-8-seed1" / "job.json"
    job.write_bytes((copy.out / "cells" / other).read_bytes())
    with pytest.raises(FolderError, match="run the comparison again to mend it"):
        read_cells(copy.out)
    compare(copy)
    assert leaderboard(read_cells(copy.out)).render("json") == right


def test_a_copy_among_the_cells_is_named(copy: Comparison) -> None:
    cells = copy.out / "cells"
    shutil.copytree(cells / "lima-8-seed1", cells / "lima-8-seed1-backup")
    with pytest.raises(FolderError, match=r"lima-8-seed1-backup is no cell .* Move it away"):
        read_cells(copy.out)
    compare(copy)
    (cells / "lima-8-seed1-backup").rename(copy.out.with_name("backup"))
    assert len(read_cells(copy.out)) == 6
