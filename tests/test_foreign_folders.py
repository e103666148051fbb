"""What lies in a folder and is not ours is neither written over nor removed, with --force or without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dfilter import sample
from dfilter.compare import compare
from dfilter.comparison import Comparison
from dfilter.errors import DFilterError, FolderError, InputError, SettingsError
from dfilter.run import Request, run

PARTS = Path(__file__).with_name("compare_parts.py")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    sample.write(tmp_path / "data", rows=60, seed=3)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return Comparison(
        out=tmp_path / "out",
        data=str(tmp_path / "data" / "pool.jsonl"),
        strategies=("lima",),
        keep=("8",),
        seeds=1,
        model="words",
        recipe="none",
        trainer=f"{PARTS}:Mean",
        evals=(f"{PARTS}:Near",),
        references=("random",),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_the_users_data_is_no_place_for_a_comparison(plan: Comparison, force: bool) -> None:
    data = Path(str(plan.data)).parent
    before = files_of(data)
    for evals in (plan.evals, ("heldout:10%",)):
        with pytest.raises(FolderError, match="is not a comparison's folder"):
            compare(replace(plan, out=data, evals=evals, force=force))
    assert files_of(data) == before


@pytest.mark.parametrize("force", [False, True])
def test_inputs_inside_the_comparison_are_refused(plan: Comparison, force: bool) -> None:
    compare(plan)
    (plan.out / "pool.jsonl").write_bytes(Path(str(plan.data)).read_bytes())
    before = files_of(plan.out)
    with pytest.raises(FolderError, match="keeps files of its own"):
        compare(replace(plan, data=str(plan.out / "pool.jsonl"), margin=0.5, force=force))
    assert files_of(plan.out) == before


def test_a_mistake_with_force_costs_nothing_that_was_finished(plan: Comparison, tmp_path: Path) -> None:
    compare(plan)
    before = files_of(plan.out)
    with pytest.raises(SettingsError, match="fits no strategy"):
        compare(replace(plan, margin=0.5, settings=("nope.x=1",), force=True))
    assert files_of(plan.out) == before
    folder = run(Request(str(plan.data), "longest", "5", out=tmp_path / "run"))
    before = files_of(folder)
    with pytest.raises(InputError, match="No row fits"):
        run(Request(str(plan.data), "longest", "5", where=["id=nothing"], out=folder, force=True))
    assert files_of(folder) == before


@pytest.mark.parametrize("force", [False, True])
def test_runs_and_comparisons_stay_out_of_each_other(plan: Comparison, tmp_path: Path, force: bool) -> None:
    compare(plan)
    folder = run(Request(str(plan.data), "longest", "5", out=tmp_path / "run"))
    before = files_of(plan.out) | files_of(folder)
    for out in (plan.out, plan.out / "cells" / "lima-8-seed0"):
        with pytest.raises(FolderError, match="is not a run folder"):
            run(Request(str(plan.data), "longest", "5", out=out, force=force))
    with pytest.raises(FolderError, match="is not a comparison's folder"):
        compare(replace(plan, out=folder, force=force))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(DFilterError):
            compare(replace(plan, out=out))
        with pytest.raises(DFilterError):
            run(Request(str(plan.data), "longest", "5", out=out))
    assert files_of(plan.out) | files_of(folder) == before
