"""Text from outside names folders, and nothing more."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from dfilter.compare import compare
from dfilter.comparison import Comparison
from dfilter.plaintext import safe_name
from dfilter.run import Request, run
from dfilter.run_folder import stem

ODD = [
    "",
    "..",
    ".",
    "/",
    "../../../x",
    "a/b",
    "a\nb",
    "con",
    "x" * 300,
    "-o",
    ".hidden",
    "\x1b]0;x\x07",
    "*",
]
PARTS = Path(__file__).with_name("compare_parts.py")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty rows in a folder some way down, and that folder to stand in."""
    here = tmp_path / "some" / "way" / "down"
    here.mkdir(parents=True)
    made = [{"instruction": f"q{i}", "output": "so " * (i + 1)} for i in range(20)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    monkeypatch.chdir(here)
    return here / "rows.jsonl"


def called(name: str, place: Path) -> str:
    """A strategy file with a name of its own."""
    table = {"name": name, "steps": [{"filter": "longest", "settings": {"unit": "characters"}}]}
    place.write_text(tomli_w.dumps(table))
    return str(place)


@given(st.text(), st.sampled_from([20, 60]))
@example("\ud800", 60)
@example("é" * 59, 60)
def test_a_name_is_letters_digits_and_a_few_signs_and_fits_a_file_system(text: str, most: int) -> None:
    name = safe_name(text, most)
    assert all(c in "._-" or unicodedata.category(c)[0] in "LMN" for c in name)
    assert name[0] not in ".-"
    assert len(name.encode()) <= most
    assert safe_name(name, most) == name


@pytest.mark.parametrize("name", ["kcenter", "rds_plus", "my-run.2", "größe", "距離", "हिन्दी", "x" * 60])
def test_a_safe_and_short_name_stays_as_it_is(name: str) -> None:
    assert safe_name(name) == name


@given(st.text(), st.text())
@example("a/b", "a-b")
@example("x" * 300, "x" * 301)
@example("", "unnamed")
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("dir/pool.v2.jsonl", "pool"),
        ("shards/part-*.jsonl", "part"),
        ("*.jsonl", "data"),
        ("..", "data"),
        ("-rf.jsonl", "rf"),
    ],
)
def test_a_run_is_called_after_its_data_without_the_signs_of_a_pattern(place: str, name: str) -> None:
    assert stem(place) == name


@pytest.mark.parametrize("name", ODD)
def test_whatever_a_strategy_is_called_its_run_lies_in_runs(rows: Path, name: str) -> None:
    folder = run(Request("rows.jsonl", called(name, rows.with_name("s.toml")), "3"))
    assert folder.resolve().parent == rows.parent / "runs"
    assert (folder / "done").exists()
    assert json.loads((folder / "manifest.json").read_text())["strategy"]["name"] == name
    above = rows.parents[3]
    assert {p.name for p in above.iterdir()} == {"some"}


def test_whatever_strategies_are_called_each_has_cells_of_its_own(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS", "calls")
    names = ["", "..", "../../../x", "a/b", "a-b", "a\nb", "x" * 300]
    plan = Comparison(
        out=Path("out"),
        data="rows.jsonl",
        strategies=[called(name, rows.with_name(f"{n}.toml")) for n, name in enumerate(names)],
        keep=("3",),
        seeds=1,
        model="words",
        recipe="none",
        trainer=f"{PARTS}:Mean",
        evals=(f"{PARTS}:Near",),
        references=(),
    )
    cells = compare(plan)
    assert sorted(cell.strategy for cell in cells) == sorted(names)  # the table's labels are the user's
    assert all(set(cell.results) == {"near"} for cell in cells)
    assert len(list(Path("out", "cells").iterdir())) == len(names)
    assert len(list(Path("out", "selections").iterdir())) == len(names)
    assert {p.name for p in rows.parents[3].iterdir()} == {"some"}
