"""What a table says of the trainings and of the prompts behind its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell, of_training, read_cell, write_cell
from dfilter.types import EvalResult

SAID = "Phi3ForCausalLM has no q_proj, which the recipe adapts."
LOST = "Saving in bfloat16 brought {}% of the weights that moved back to where they began."


def cell(strategy: str, seed: int, facts: dict[str, Any] | None = None, **figures: Any) -> Cell:
    prompts = [f"p{at}" for at in range(4)]
    found = EvalResult(prompts, np.array([0.0, 1, 0, 1]), "exact match", True, facts or {})
    return Cell(strategy, "10", seed, **{"rows": 10, "results": {"exact": found}, **figures})


def notes(*cells: Cell, of: str = "Training") -> list[str]:
    return [note for note in leaderboard(cells).notes if note.startswith(of) and "(full)" not in note]


def test_rows_that_training_cut_are_told_by_strategy() -> None:
    cut = {"random": (0, 1), "longest": (9, 8), "mine": (0, 0), "theirs": (None, None)}
    cells = [cell(name, seed, cut_rows=n) for name, both in cut.items() for seed, n in enumerate(both)]
    [note] = notes(*cells)
    assert "rows that lost the end of a response" in note
    assert note.endswith("5% of random at 10, 85% of longest at 10.")
    [rare] = notes(cell("random", 0, rows=1000, cut_rows=1), cell("mine", 0, cut_rows=0))
    assert rare.endswith("under 1% of random at 10.")
    assert notes(*[cell(name, 0, cut_rows=0) for name in cut]) == []


def test_a_warning_that_all_trainings_gave_stands_once() -> None:
    cells = [cell(name, seed, warnings=(SAID,)) for name in ("random", "mine") for seed in (0, 1)]
    assert notes(*cells) == [f"Training: {SAID}"]
    failed = Cell("late", "10", 0, failed="out of memory")
    assert notes(*cells, failed) == [f"Training: {SAID}"]


def test_a_warning_that_some_trainings_gave_names_them() -> None:
    cells = [cell("random", 0), cell("random", 1), cell("mine", 0, warnings=(SAID,)), cell("mine", 1)]
    assert notes(*cells) == [f"Training of mine at 10: {SAID}"]


def test_warnings_that_differ_in_figures_alone_are_one() -> None:
    said = [LOST.format(share) for share in (63, 63, 61, 9.5)]
    names = [("random", 0), ("random", 1), ("mine", 0), ("mine", 1)]
    cells = [cell(*name, warnings=(text,)) for name, text in zip(names, said, strict=True)]
    assert notes(*cells) == [f"Training: {said[0]} (So in 2 more, with other figures.)"]


def test_epochs_that_were_chosen_are_told_by_seed() -> None:
    chosen = [cell("random", 0, chosen="epoch-05"), cell("random", 1, chosen="epoch-10"), cell("mine", 0)]
    [note] = notes(*chosen)
    assert "by seed: 5, 10 of random at 10. Trained tokens are those up to it." in note


def test_prompts_that_a_model_cannot_be_shown_are_counted_with_the_reason() -> None:
    told = {"not_shown": {"p0": "too long", "p1": "too long", "p2": "no system here"}}
    made = [cell("random", 0, told), cell("mine", 0, {"not_shown": {"p0": "too long", "p3": "too long"}})]
    [note] = notes(*made, of="exact: 4 prompts have no value")
    assert note.endswith("cannot be shown them (3: too long; 1: no system here).")
    many = {"not_shown": {f"p{at}": f"reason {at}" for at in range(4)}}
    assert notes(cell("random", 0, many), of="exact: 4")[0].endswith("1: reason 2; …).")
    assert notes(cell("random", 0), cell("mine", 0), of="exact") == []


@pytest.mark.parametrize("told", [{}, {"warnings": None}, {"warnings": "one text", "chosen": None}])
def test_a_trainer_that_tells_nothing_of_the_kind_is_no_mistake(told: dict[str, Any], tmp_path: Any) -> None:
    made = cell("random", 0, **of_training(told))
    write_cell(tmp_path, made)
    there = read_cell(tmp_path)
    assert (there.warnings, there.chosen, there.cut_rows) == ((), "", None)


def test_what_a_trainer_tells_survives_on_the_disk(tmp_path: Any) -> None:
    told = {"warnings": [SAID], "chosen": "epoch-06", "cut_rows": 3, "trained_tokens": 70, "seconds": 2.5}
    write_cell(tmp_path, cell("random", 0, **of_training(told)))
    there = read_cell(tmp_path)
    assert (there.warnings, there.chosen, there.cut_rows) == ((SAID,), "epoch-06", 3)
    assert (there.trained_tokens, there.train_seconds) == (70, 2.5)
