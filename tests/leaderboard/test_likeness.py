"""Like with like: a verdict says when its selections were not trained on as many tokens."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest

from dfilter.commands import with_budgets
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell
from dfilter.types import EvalResult


def cells(times: float, shift: float = 0.5) -> list[Cell]:
    """Random and a strategy, three seeds; the strategy trained on so many times as many tokens."""
    draw = np.random.default_rng(0)
    made = []
    for seed in range(3):
        values = draw.normal(size=100)
        for name, tokens, more in (("random", 12_000, 0.0), ("longest", 12_000 * times, shift)):
            found = EvalResult(
                [f"q{n}" for n in range(100)], values + more + draw.normal(size=100) / 9, "score", True
            )
            made.append(
                Cell(
                    name,
                    "150",
                    seed,
                    rows=150,
                    response_tokens=int(tokens),
                    trained_tokens=int(tokens * 3),
                    train_seconds=8.0,
                    results={"e": found},
                )
            )
    return made


@pytest.mark.parametrize(("times", "said"), [(4.0, "4 times"), (0.5, "0.5 times"), (1.6, "1.6 times")])
def test_a_verdict_between_unlike_tokens_says_so_and_at_which_budget_they_are_equal(
    times: float, said: str
) -> None:
    board = leaderboard(cells(times))
    assert f"trained on {said} random's tokens" in board.finding
    note = "Verdicts of longest at 150 are not at equal tokens; the comparison with --keep 12ktok is."
    assert note in board.notes
    (row,) = [row for row in board.rows if row.strategy == "longest"]
    assert (row.verdict, row.tokens_ratio) == ("better", pytest.approx(times, rel=1e-3))


def test_tokens_that_a_budget_would_not_make_equal_are_not_promised() -> None:
    """As where both train so many steps, or where one's rows are cut and nobody counted what is left."""
    made = [replace(c, trained_tokens=c.trained_tokens // (2 - (c.strategy == "random"))) for c in cells(4)]
    board = leaderboard(made)
    assert "trained on 2 times random's tokens" in board.finding
    assert not [note for note in board.notes if "--keep" in note]
    counted = [replace(c, budget_tokens=c.trained_tokens // 3) for c in made]
    assert [note for note in leaderboard(counted).notes if "--keep 12ktok is" in note]


@pytest.mark.parametrize("times", [1.0, 1.5, 0.7])
def test_like_tokens_need_no_word(times: float) -> None:
    board = leaderboard(cells(times))
    assert "tokens" not in board.finding
    assert not [note for note in board.notes if "equal tokens" in note]


def test_an_inconclusive_verdict_says_it_too_and_no_verdict_does_not() -> None:
    assert "longest (trained on 4 times random's tokens) is inconclusive" in leaderboard(cells(4, 0)).finding
    two_seeds = [cell for cell in cells(4) if cell.seed < 2]
    assert "trained on" not in leaderboard(two_seeds).finding


@pytest.mark.parametrize("width", [80, 120, 200])
def test_trained_tokens_and_time_stand_in_every_table(width: int) -> None:
    text = leaderboard(cells(4)).render("table", width)
    assert "trained tok" in text
    assert "train s" in text
    assert "144k" in text


@pytest.mark.parametrize("keep", [["--keep", "150"], ["--keep=150"], ["-k", "150"], ["-k150"], []])
def test_the_command_at_equal_tokens_is_the_same_but_for_the_budget(keep: list[str]) -> None:
    words = ["my data.jsonl", "-s", "longest,kcenter", *keep, "--eval", "exact:a.jsonl,match=number"]
    again = shlex.split(with_budgets(words, ["12ktok", "24ktok"]))
    wanted = ["my data.jsonl", "-s", "longest,kcenter", "--eval", "exact:a.jsonl,match=number"]
    assert again == ["dfilter", "compare", *wanted, "--keep", "12ktok,24ktok"]
