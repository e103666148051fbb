"""Budgets that mean the same are one budget, however they are spelt, in a comparison and across several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dfilter.compare import compare
from dfilter.comparison import Comparison, only
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import read_cells


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap: Callable[..., Comparison]) -> Comparison:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return cheap(tmp_path, references=("random",))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("30", "0.03k"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [("0.03k", "30"), ("50%", "50.0%")]),
    ],
)
def test_two_spellings_are_one_budget(plan: Comparison, first: str, second: str) -> None:
    both = compare(replace(plan, keep=(first, second)))
    assert {cell.budget for cell in both} == {first}  # as it was spelt first
    again = compare(replace(plan, keep=(second,)))
    assert [(c.strategy, c.budget) for c in again] == [(c.strategy, c.budget) for c in both]
    assert len((plan.out.parent / "calls").read_text().split()) == 2
    other = replace(plan, keep=(second,), out=plan.out.with_name("other"))
    assert {cell.budget for cell in compare(other)} == {second}
    cells = [*read_cells(plan.out), *read_cells(other.out)]
    shown = leaderboard(cells).render("json")
    assert shown.count('"strategy": "lima"') == leaderboard(both).render("json").count('"strategy": "lima"')
    assert only(both, [], [second]) == both
