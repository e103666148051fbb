"""Logs of elsewhere: published counts through the form, what merges, and what is refused in which words."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dfilter.cli import main
from dfilter.commands import with_budgets
from dfilter.comparison import only
from dfilter.errors import FolderError, InputError, SettingsError
from dfilter.leaderboard import agreement as a
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import Cell, write_cell
from dfilter.leaderboard.logs import read_all, read_logs
from dfilter.types import EvalResult


def as_csv(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_array(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


WRITERS = {"log.csv": as_csv, "log.jsonl": as_jsonl, "log.json": as_array}


def alpagasus2(test_data, name):
    """Return what the published files hold, as rows: two ratings per prompt and order."""
    folder = test_data / "judgements" / "alpagasus2"
    for order, file, mine in (
        ("first", f"alpagasus2-alpaca2-{name}.json", 0),
        ("second", f"alpaca2-alpagasus2-{name}.json", 1),
    ):
        for row in json.loads((folder / file).read_text()):
            yield {
                "strategy": "alpagasus2",
                "opponent": "alpaca2",
                "prompt": row["question_id"],
                "set": name,
                "order": order,
                "score": row["score"][mine],
                "opponent_score": row["score"][1 - mine],
                "length_difference": len(row["alpagasus2"]) - len(row["alpaca2"]),
            }


@pytest.mark.parametrize("name", WRITERS)
def test_published_judgements_give_the_published_counts(test_data, tmp_path, name):
    rows = [row for prompts in ("koala", "vicuna") for row in alpagasus2(test_data, prompts)]
    board = leaderboard(read_logs([WRITERS[name](tmp_path / name, rows)]), replicates=0)
    (row,) = board.rows
    counts = {test_set: (t.win, t.tie, t.lose) for test_set, t in row.tallies.items()}
    assert counts == {"koala": (94, 71, 15), "vicuna": (40, 38, 2), "all": (134, 109, 17)}
    assert row.winning["koala"].value == pytest.approx((94 - 15) / 180 + 1)
    assert board.metrics[0].label == "win rate against alpaca2"


def test_published_judgements_in_two_files_show_what_one_order_hides(test_data, tmp_path):
    rows = list(alpagasus2(test_data, "koala"))
    files = [
        as_jsonl(tmp_path / f"{order}.jsonl", [row for row in rows if row["order"] == order])
        for order in ("first", "second")
    ]
    board = leaderboard(read_logs(files), replicates=0)
    (health,) = board.metrics[0].health.values()
    assert health.prompts == 180
    assert 0.37 <= 1 - health.consistency <= 0.48
    assert 0.73 <= health.longer_share <= 0.83
    for row in rows:  # the orders mixed up: what a judge says then is position
        if row["order"] == "second":
            row["score"], row["opponent_score"] = row["opponent_score"], row["score"]
    swapped = leaderboard(read_logs([as_jsonl(tmp_path / "swapped.jsonl", rows)]), replicates=0)
    assert any("answers of one order were not swapped twice" in note for note in swapped.notes)


@pytest.mark.parametrize(("first", "said"), [(1.0, "sees little but position"), (0.48, "decides by chance")])
def test_a_judge_is_not_said_to_see_position_where_neither_position_wins(first, said):
    health = a.JudgeHealth(prompts=100, consistent=20, decisive=200, first_won=round(200 * first))
    assert health.describe().endswith(said + ("" if first == 1.0 else ", by neither position"))


def test_a_strategy_is_not_its_own_opponent(tmp_path):
    line = {"strategy": "mine", "opponent": "mine", "prompt": "a", "value": "win"}
    with pytest.raises(InputError, match="'mine' is its own opponent; a judgement is of two strategies"):
        read_logs([as_jsonl(tmp_path / "log.jsonl", [line])])


def test_pandalm_kappas_through_the_form(test_data, tmp_path):
    folder = test_data / "preferences" / "pandalm"
    people = json.loads((folder / "testset-v1.json").read_text())
    machine = json.loads((folder / "gpt-3.5-turbo-testset-v1.json").read_text())
    words = {"0": "tie", "1": "win", "2": "lose", "Tie": "tie"}
    rows = [
        {
            "strategy": "one",
            "opponent": "two",
            "prompt": row["idx"],
            "judge": who,
            "value": words.get(str(said)),
        }
        for row, other in zip(people, machine, strict=True)
        for who, said in [
            *((f"annotator{i}", row[f"annotator{i}"]) for i in (1, 2, 3)),
            ("gpt", other["gpt_result"]),
        ]
    ]
    (cell,) = read_logs([as_jsonl(tmp_path / "pandalm.jsonl", rows)])
    (found,) = cell.results.values()
    said = {
        judge: np.array([np.nan if v is None else v for v in column])
        for judge, column in found.facts["judges"].items()
    }
    assert {judge: column.size for judge, column in said.items()} == dict.fromkeys(said, 999)
    one, two, three = (said[f"annotator{i}"] for i in (1, 2, 3))
    between = [a.cohen_kappa(*pair) for pair in ((one, two), (one, three), (two, three))]
    assert sorted(round(kappa, 3) for kappa in between) == [0.852, 0.862, 0.879]
    assert np.isnan(said["gpt"]).sum() == 25  # what was not parsed has no value


@given(st.lists(st.tuples(*[st.sampled_from(["win", "tie", "lose", ""])] * 2), min_size=1, max_size=12))
def test_any_verdicts_are_tallied_as_the_rule_says(tmp_path_factory, pairs):
    rows = [
        {"strategy": "ifd", "opponent": "random", "prompt": f"q{at}", "order": order, "value": said}
        for at, pair in enumerate(pairs)
        for order, said in zip(("first", "second"), pair, strict=True)
    ]
    (cell,) = read_logs([as_csv(tmp_path_factory.mktemp("logs") / "log.csv", rows)])
    (found,) = cell.results.values()
    number = {"win": 1, "tie": 0, "lose": -1, "": math.nan}
    first, second = ([number[pair[place]] for pair in pairs] for place in (0, 1))
    np.testing.assert_array_equal(found.values, a.win_shares(first, second))
    assert found.facts["against"] == "random"
    assert found.facts["bounds"] == [0, 1]


@pytest.mark.parametrize("name", WRITERS)
def test_values_are_the_cells_they_came_from(tmp_path, name):
    rng = np.random.default_rng(0)
    prompts = [f'What is {i},\n"quoted"?' for i in range(30)]
    cells = [
        Cell(strategy, "5%", seed, results={"loss": EvalResult(prompts, rng.normal(size=30), "loss", False)})
        for strategy in ("random", "ifd", "longest")
        for seed in range(3)
    ]
    rows = [
        {
            "strategy": cell.strategy,
            "budget": cell.budget,
            "seed": cell.seed,
            "metric": "loss",
            "higher_is_better": False,
            "prompt": prompt,
            "value": value,
        }
        for cell in cells
        for prompt, value in zip(prompts, cell.results["loss"].values.tolist(), strict=True)
    ]
    (tmp_path / "half").mkdir()
    WRITERS[name](tmp_path / "half" / name, rows[:100])
    rest = WRITERS[name](tmp_path / name, rows[100:])
    merged = read_all([tmp_path / "half", rest])
    assert leaderboard(merged).render("json") == leaderboard(cells).render("json")


def test_zeros_and_ones_with_bounds_are_a_rate_and_blanks_are_missing(tmp_path):
    rows = [
        {
            "strategy": who,
            "prompt": f"q{i}",
            "value": "" if (who, i) == ("ifd", 2) else 0.5,
            "min": 0,
            "max": 1,
        }
        for who in ("random", "ifd")
        for i in range(4)
    ]
    board = leaderboard(read_logs([as_csv(tmp_path / "log.csv", rows)]), replicates=0)
    assert board.metrics[0].rate
    assert next(row for row in board.rows if row.strategy == "ifd").random.prompts == 3


GOOD = {"strategy": "ifd", "prompt": "q1", "value": 0.5}
DUEL = GOOD | {"opponent": "random"}
REFUSED = [
    ([{"strategy": "ifd", "value": 1}], "there is no prompt"),
    ([{"prompt": "q1", "value": 1}], "there is no strategy"),
    ([{"strategy": "ifd", "prompt": "q1"}], "there is no column value"),
    ([GOOD | {"ordr": "first"}], r"column 'ordr' is no part .* Did you mean 'order'"),
    (
        [GOOD, GOOD | {"value": 0.7}],
        r"line 2 \(prompt 'q1'\): a second value of 'value' for ifd at own, seed 0",
    ),
    ([GOOD | {"seed": 1}, GOOD | {"seed": "1", "value": 0.9}], "second value .* seed 1"),
    (
        [DUEL | {"order": "first", "judge": "j", "value": said} for said in ("win", "tie")],
        "from judge 'j' in order 'first'",
    ),
    ([DUEL, DUEL | {"order": "second"}], "with and without an order"),
    ([GOOD | {"value": "good"}], "value is 'good'; expected a number"),
    ([GOOD | {"value": "nan"}], "value is 'nan'"),
    ([GOOD | {"value": 1.5, "min": 0, "max": 1}], "value 1.5 lies outside of 0 to 1"),
    ([DUEL | {"value": 7}], "value 7 lies outside of 0 to 1"),
    ([DUEL | {"score": 7, "opponent_score": 6}], "a value and scores"),
    ([GOOD | {"order": "first"}], "name the opponent"),
    ([DUEL | {"order": "both"}], "order is 'both'"),
    ([DUEL | {"higher_is_better": "false"}], "true in a judgement"),
    ([GOOD | {"seed": "one"}], "seed is 'one'"),
    ([GOOD | {"higher_is_better": "up"}], "higher_is_better is 'up'"),
    ([GOOD, GOOD | {"prompt": "q2", "higher_is_better": False}], "higher_is_better was True and is False"),
    ([], "no row was found"),
]


@pytest.mark.parametrize(("rows", "words"), REFUSED)
def test_what_is_refused(tmp_path, rows, words):
    with pytest.raises(InputError, match=words):
        read_logs([as_jsonl(tmp_path / "log.jsonl", rows)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("strategy,value\nifd,1\n", "its first line must name strategy, prompt and value"),
        ("strategy,prompt,value\nifd,q1\n", "line 2 has another number of fields"),
        ("", "names nothing"),
    ],
)
def test_tables_that_are_no_logs(tmp_path, text, words):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_logs([tmp_path / "log.csv"])


def test_findings_come_at_once_and_each_kind_once(tmp_path):
    rows = [GOOD | {"prompt": f"q{i}", "value": "x"} for i in range(50)] + [GOOD | {"seed": -1}]
    log = as_jsonl(tmp_path / "log.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_logs([log])
    assert str(caught.value) == (
        f"{log}, line 1 (prompt 'q0') and 49 more rows: value is 'x'; expected a number, or nothing where "
        f"there is none. {log}, line 51 (prompt 'q1'): seed is '-1'; expected a whole number."
    )


def test_json_without_numbers_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"strategy": "ifd", "prompt": "q", "value": NaN}')
    with pytest.raises(InputError, match="NaN is no number; write null"):
        read_logs([tmp_path / "log.jsonl"])


def test_a_comparisons_folder_stays_one_whatever_files_lie_in_it(tmp_path):
    found = EvalResult(("q0", "q1"), np.array([0.0, 1.0]), "loss", higher_is_better=False)
    write_cell(tmp_path / "cells" / "random-own-seed0", Cell("random", "own", 0, results={"loss": found}))
    (tmp_path / "leaderboard.csv").write_text("not,a,log\n")
    assert [cell.strategy for cell in read_all([tmp_path])] == ["random"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No cell of a comparison was found"):
        read_all([tmp_path / "empty"])


def test_trained_here_and_published_elsewhere_are_no_one_table(tmp_path):
    found = EvalResult(("q0", "q1"), np.array([0.0, 1.0]), "value", higher_is_better=True)
    here = Cell("random", "own", 0, protocol={"model": "tiny"}, results={"value": found})
    write_cell(tmp_path / "here" / "cell", here)
    log = as_jsonl(tmp_path / "log.jsonl", [GOOD])
    with pytest.raises(FolderError, match="different protocols"):
        leaderboard(read_all([tmp_path / "here", log]))


def test_the_command_prints_the_table_and_its_help_the_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"strategy": who, "seed": seed, "prompt": f"q{i}", "value": 0.1 * i + 0.01 * seed, "metric": "score"}
        for who in ("random", "ifd")
        for seed in range(3)
        for i in range(20)
    ]
    as_csv(tmp_path / "log.csv", rows)
    told = CliRunner().invoke(main, ["leaderboard", "log.csv"])
    assert told.exit_code == 0, told.output
    assert "On score, ifd" in told.output
    assert re.search(r"ifd +own +- +3 ", told.output)  # nobody knows how many rows it was trained on
    help_text = CliRunner().invoke(main, ["leaderboard", "--help"]).output
    shown = [line.strip() for line in help_text.splitlines()]
    at = shown.index("losses.csv:")
    (tmp_path / "losses.csv").write_text("\n".join(shown[at + 1 : at + 4]))
    at = shown.index("judged.jsonl:")
    (tmp_path / "judged.jsonl").write_text("\n".join(shown[at + 1 : at + 3]))
    shown_example = CliRunner().invoke(main, ["leaderboard", "losses.csv", "judged.jsonl"])
    assert shown_example.exit_code == 0, shown_example.output
    assert "win rate against random" in shown_example.output


def read_rows_of(tmp_path, rows, name="log.jsonl"):
    return read_logs([as_jsonl(tmp_path / name, rows)])


def test_a_row_that_says_the_same_again_counts_once(tmp_path):
    rows = [{"strategy": s, "prompt": f"q{n}", "value": n} for s in ("a", "random") for n in range(3)]
    once, twice = read_rows_of(tmp_path, rows), read_rows_of(tmp_path, rows + rows, "twice.jsonl")
    assert [cell.results["value"].values.tolist() for cell in twice] == [
        cell.results["value"].values.tolist() for cell in once
    ]
    with pytest.raises(InputError, match="a second value"):
        read_rows_of(tmp_path, [*rows, rows[0] | {"value": 9}])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"set": "koala", "judge": "j2"}, "the prompt is in the set 'koala' and in 'vicuna'"),
        (
            {"length_difference": -500, "judge": "j2"},
            "length_difference is -500 and 100 of the same two answers",
        ),
        ({"value": 0.7, "order": "first", "judge": "j2"}, "a verdict in one order is win, tie or lose"),
        ({"value": "perhaps", "judge": "j2"}, "expected win, tie or lose, or a share from 0 to 1"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(change, reason, tmp_path):
    row = {"strategy": "a", "opponent": "random", "prompt": "q", "value": "win"}
    row |= {"set": "vicuna", "length_difference": 100, "judge": "j1"}
    assert read_rows_of(tmp_path, [row, row | {"judge": "j3"}])
    with pytest.raises(InputError, match=reason):
        read_rows_of(tmp_path, [row, row | change])


@pytest.mark.parametrize(
    ("said", "share"), [("won", 1), ("draw", 0.5), ("1.0", 1), (0, 0), ("Loss", 0), (0.7, 0.7)]
)
def test_verdicts_as_others_write_them(said, share, tmp_path):
    row = {"strategy": "a", "opponent": "random", "prompt": "q", "value": said}
    [cell] = read_rows_of(tmp_path, [row])
    assert cell.results["win rate against random"].values.tolist() == [share]


def test_one_budget_however_it_is_written_and_seeds_of_data_frames(tmp_path):
    rows = [
        {"strategy": "a", "prompt": "q", "value": 1, "budget": budget, "seed": seed}
        for budget, seed in (("1k", "0.0"), ("1000", "1.0"), ("1.0k", 2), ("5%", 3), ("best", 4))
    ]
    cells = read_rows_of(tmp_path, rows)
    assert [(cell.budget, cell.seed) for cell in cells] == [
        ("1k", 0),
        ("1k", 1),
        ("1k", 2),
        ("5%", 3),
        ("best", 4),
    ]
    (tmp_path / "log.tsv").write_text("strategy\tprompt\tvalue\na\tq, r\t1\n")
    assert read_logs([tmp_path / "log.tsv"])[0].results["value"].prompts == ("q, r",)
    with pytest.raises(InputError, match="min is 1 and max is 0"):
        read_rows_of(tmp_path, [{"strategy": "a", "prompt": "q", "value": 0.5, "min": 1, "max": 0}])


def test_a_strategy_that_the_table_lacks_is_named(tmp_path):
    cells = read_rows_of(tmp_path, [{"strategy": "ifd", "prompt": "q", "value": 1}])
    assert only(cells, ["ifd"], [])
    with pytest.raises(SettingsError, match=r"'ifdd'.*Did you mean 'ifd'"):
        only(cells, ["ifdd"], [])


def test_a_command_with_other_budgets_can_be_typed():
    words = ["-s", "ifd", "--keep", "5%", "--force", "--keep=3", "--", "-p.json"]
    assert with_budgets(words, ["1ktok"]) == "dfilter compare -s ifd --keep 1ktok -- -p.json"
