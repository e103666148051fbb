"""Whatever file of a run or a comparison is damaged: the same result, or a sentence; never another result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dfilter import sample
from dfilter.compare import compare
from dfilter.comparison import Comparison, prepare
from dfilter.errors import DFilterError, FolderError
from dfilter.leaderboard import leaderboard
from dfilter.progress import Silent
from dfilter.run import Request, run
from dfilter.run_folder import read_manifest
from dfilter.summary import explain, shown_rows, summary

PARTS = Path(__file__).with_name("compare_parts.py")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sample.write(folder, rows=60, seed=3)
    return folder / "pool.jsonl"


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One store for the module: it is the folders that are damaged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("CALLS", str(tmp_path_factory.mktemp("calls") / "calls"))
        yield


@pytest.fixture(scope="module")
def whole(pool: Path, tmp_path_factory: pytest.TempPathFactory, _home: None) -> Path:
    return run(Request(str(pool), "lima", "10", out=tmp_path_factory.mktemp("run") / "whole"))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what must repeat: every file, the manifest without its timings."""
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    manifest = json.loads(found["manifest.json"])
    del manifest["timings"]
    return found | {"manifest.json": json.dumps(manifest).encode()}


def made_again(request: Request) -> tuple[str, str]:
    """Run again; return how it ended, and what was said."""
    try:
        run(request)
    except DFilterError as error:
        return "refused", str(error)
    return "done", ""


@pytest.mark.parametrize("numbers", [range(30), pytest.param(range(30, 330), marks=pytest.mark.soak)])
@pytest.mark.parametrize("lost", [["done"], ["done", "manifest.json"], ["done", "selected.jsonl"], []])
def test_a_damaged_run_is_made_again_or_refused_in_a_sentence(
    damages: ModuleType, pool: Path, whole: Path, tmp_path: Path, numbers: range, lost: list[str]
) -> None:
    before = files_of(whole)
    refused = 0
    for number in numbers:
        out = Path(shutil.copytree(whole, tmp_path / str(number)))
        for name in lost:  # what a killed run has not written yet
            (out / name).unlink()
        damage = damages.drawn(out, number)
        damage.do(out)
        request = Request(str(pool), "lima", "10", out=out)
        end, said = made_again(request)
        if end == "refused":
            refused += 1
            assert "--force" in said, damage
            assert str(out) in said, damage
            end, said = made_again(replace(request, force=True))
        assert (end, files_of(out)) == ("done", before), (damage, said)
    assert refused < len(numbers) / 2  # most of them heal by themselves


@pytest.mark.parametrize("numbers", [range(30), pytest.param(range(30, 330), marks=pytest.mark.soak)])
def test_what_a_damaged_run_shows_is_what_was_written_or_a_sentence(
    damages: ModuleType, whole: Path, tmp_path: Path, numbers: range
) -> None:
    def told(folder: Path) -> list[Any]:
        row = next(iter(shown_rows(folder, "kept", 1)))
        manifest = read_manifest(folder)
        return [manifest, summary(folder).rpartition("Files:")[0], row, explain(folder, row["id"])]

    before = told(whole)
    for number in numbers:
        out = Path(shutil.copytree(whole, tmp_path / str(number)))
        damage = damages.drawn(out, number)
        damage.do(out)
        try:
            found = told(out)
        except DFilterError:
            continue
        assert found == before, damage


@pytest.fixture(scope="module")
def compared(pool: Path, tmp_path_factory: pytest.TempPathFactory, _home: None) -> tuple[Comparison, str]:
    plan = Comparison(
        out=tmp_path_factory.mktemp("compared") / "whole",
        data=str(pool),
        strategies=("lima",),
        keep=("8",),
        seeds=1,
        model="words",
        recipe="none",
        trainer=f"{PARTS}:Mean",
        evals=(f"{PARTS}:Near",),
        references=("random",),
    )
    return plan, table(compare(plan))


def table(cells: Any) -> str:
    """The table without what differs between any two runs: seconds."""
    found = json.loads(leaderboard(cells).render("json"))
    return json.dumps(
        json.loads(
            json.dumps(found), object_hook=lambda d: {k: v for k, v in d.items() if "seconds" not in k}
        ),
        sort_keys=True,
    )


@pytest.mark.parametrize("numbers", [range(8), pytest.param(range(8, 108), marks=pytest.mark.soak)])
def test_a_damaged_comparison_has_the_same_table_or_is_refused_in_a_sentence(
    damages: ModuleType, compared: tuple[Comparison, str], tmp_path: Path, numbers: range
) -> None:
    plan, before = compared
    for number in numbers:
        out = Path(shutil.copytree(plan.out, tmp_path / str(number)))
        damage = damages.drawn(out, number)
        damage.do(out)
        again = replace(plan, out=out)
        try:
            found = table(compare(again))
        except DFilterError:
            found = table(compare(replace(again, force=True)))
        assert found == before, damage


def test_damaged_rows_that_were_set_aside_are_set_aside_again(
    damages: ModuleType, pool: Path, tmp_path: Path
) -> None:
    plan = Comparison(out=tmp_path / "out", data=str(pool), model="tiny", evals=("heldout:20%",))
    prepare(plan, Silent())
    before = {file.name: file.read_bytes() for file in plan.out.iterdir()}
    assert set(before) == {"protocol.json", "pool.jsonl", "heldout.jsonl", "split.json"}
    for number in range(30):
        damage = damages.drawn(plan.out, number)
        damage.do(plan.out)
        try:
            prepare(plan, Silent())
        except FolderError:
            prepare(replace(plan, force=True), Silent())
        assert {file.name: file.read_bytes() for file in plan.out.iterdir()} == before, damage
