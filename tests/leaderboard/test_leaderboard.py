"""The leaderboard: verdicts, references, what is said when something is missing, and its formats."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dfilter.cli import main
from dfilter.errors import FolderError, InputError, SettingsError, UnknownNameError
from dfilter.leaderboard import leaderboard
from dfilter.leaderboard.cells import (
    Cell,
    chance_overlap,
    read_cell,
    read_cells,
    read_result,
    write_cell,
    write_result,
)
from dfilter.types import EvalResult


def result(values, metric="loss", up=False, **facts):
    values = np.asarray(values, dtype=float)
    return EvalResult(tuple(f"q{i}" for i in range(values.size)), values, metric, up, facts)


def cells(
    effects, *, seeds=3, prompts=60, budget="1000", noise=0.05, training=0.0, up=True, seed=0, name="m"
):
    """Cells whose scores are a shared prompt effect, the strategy's effect, and noise."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=prompts)
    made = []
    for strategy, effect in effects.items():
        for k in range(seeds):
            values = base + effect + training * rng.normal() + noise * rng.normal(size=prompts)
            place = "full" if strategy == "full" else budget
            made.append(Cell(strategy, place, k, rows=1000, results={name: result(values, "score", up)}))
    return made


def row(board, strategy, budget=None):
    found = [r for r in board.rows if r.strategy == strategy and budget in {None, r.budget}]
    assert len(found) == 1
    return found[0]


def test_difference_by_hand():
    # Differences: seed 0 gives 1, 2, 3 and seed 1 gives 3, 4, 5; test_statistics has the variance.
    board = leaderboard(
        [
            Cell("random", "10", 0, results={"m": result([0, 0, 0])}),
            Cell("random", "10", 1, results={"m": result([1, 1, 1])}),
            Cell("mine", "10", 0, results={"m": result([1, 2, 3])}),
            Cell("mine", "10", 1, results={"m": result([4, 5, 6])}),
        ]
    )
    found = row(board, "mine").random
    df = (4 / 3) ** 2 / (1 + (1 / 9) / 2)
    half = stats.t.ppf(0.975, df) * math.sqrt(4 / 3)
    assert found.value == 3
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert math.isnan(found.detectable)  # two seeds have no test, so none that has a power
    assert (found.seeds, found.prompts) == (2, 3)


def test_verdicts_need_three_seeds():
    effects = {"random": 0, "mine": 1}
    assert row(leaderboard(cells(effects, seeds=3)), "mine").verdict == "better"
    two = row(leaderboard(cells(effects, seeds=2)), "mine")
    assert two.verdict == ""
    assert math.isnan(two.p)
    assert two.random.low > 0


def test_one_seed_is_labelled_and_has_no_verdict():
    board = leaderboard(cells({"random": 0, "mine": 1}, seeds=1), margin=0.5)
    mine = row(board, "mine")
    assert mine.random.method == "one training seed: training noise not included"
    assert mine.verdict == mine.against_full == ""
    assert math.isnan(mine.p)
    assert "one training seed: training noise not included" in board.render()
    assert "no verdicts" in board.finding


def test_the_four_verdicts():
    board = leaderboard(
        cells({"random": 0, "up": 1, "down": -1, "same": 0, "far": 0.05}, noise=0.1, prompts=300), margin=0.1
    )
    assert {r.strategy: r.verdict for r in board.rows} == {
        "up": "better",
        "down": "worse",
        "same": "equivalent",
        "far": "equivalent",  # surely above zero, and too small to matter
        "random": "",
    }
    assert row(board, "far").p < 0.05
    unclear = leaderboard(cells({"random": 0, "same": 0}, noise=2.0), margin=0.1)
    assert row(unclear, "same").verdict == "inconclusive"
    assert "no difference" not in unclear.render()


def test_without_a_margin_nothing_is_equivalent():
    board = leaderboard(cells({"random": 0, "same": 0, "full": 0}, noise=0.01))
    assert row(board, "same").verdict == "inconclusive"
    assert row(board, "same").against_full == ""


def test_direction_of_the_metric_decides_what_better_means():
    for up, verdict in ((True, "better"), (False, "worse")):
        board = leaderboard(cells({"random": 0, "mine": 1}, up=up))
        assert row(board, "mine").verdict == verdict
        assert row(board, "mine").random.value > 0  # differences keep the metric's sign
        first = board.rows[0].strategy
        assert first == ("mine" if up else "random")


def test_p_is_adjusted_over_the_whole_table():
    alone = leaderboard(cells({"random": 0, "mine": 0.02}, noise=0.1))
    crowd = {"random": 0, "mine": 0.02} | {f"s{i}": 0 for i in range(9)}
    many = leaderboard(cells(crowd, noise=0.1))
    assert row(many, "mine").random.value == pytest.approx(row(alone, "mine").random.value)
    assert row(many, "mine").p > row(alone, "mine").p
    both = cells({"random": 0, "mine": 0.02}, noise=0.1) + cells(
        {"random": 0, "mine": 0}, noise=0.1, budget="3000", seed=1
    )
    assert row(leaderboard(both), "mine", "1000").p > row(alone, "mine").p


def lucky_among_wild():
    """Cells of random and of a strategy whose seeds lie close together, and of neighbours whose do not."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=400)

    def made(name, shifts):
        return [
            Cell(name, "10", k, results={"m": result(base + shift + 0.1 * rng.normal(size=400), up=True)})
            for k, shift in enumerate(shifts)
        ]

    lucky = made("random", [0, 0.01, 0.02]) + made("lucky", [0.10, 0.11, 0.12])
    wild = [c for i in range(3) for c in made(f"wild{i}", [0.4 * (i - 1), -0.3, 0.5])]
    return lucky, wild


def test_pooled_noise_takes_a_lucky_verdict_back():
    # The strategy's three seeds happen to lie close together; those of its neighbours do not.
    lucky, wild = lucky_among_wild()
    assert row(leaderboard(lucky), "lucky").verdict == "better"
    assert row(leaderboard(lucky + wild), "lucky").verdict == "inconclusive"


def test_full_is_compared_by_non_inferiority():
    effects = {"random": -1, "good": 0.02, "bad": -1, "full": 0}
    board = leaderboard(cells(effects, noise=0.1, prompts=300), margin=0.1)
    assert row(board, "good").against_full == "non-inferior"
    assert row(board, "bad").against_full == "inferior"
    full = row(board, "full")
    assert full.random is None
    assert full.verdict == full.against_full == ""
    assert row(board, "random").full.value == pytest.approx(-1, abs=0.05)


def test_full_with_fewer_seeds_gives_intervals_only():
    made = [c for c in cells({"random": 0, "mine": 0, "full": 0}) if c.strategy != "full" or c.seed == 0]
    board = leaderboard(made, margin=0.5)
    assert row(board, "mine").full.seeds == 1
    assert row(board, "mine").against_full == ""
    assert row(board, "mine").verdict == "equivalent"


def test_own_budgets_are_compared_with_random_of_their_size():
    rng = np.random.default_rng(0)
    made = []
    for k in range(3):
        for name, budget, against, shift in (
            ("random", "1000", "", 0.0),
            ("random", "412", "", -1.0),
            ("lima", "own", "412", 0.0),
            ("kcenter", "1000", "", 0.0),
        ):
            values = shift + 0.01 * rng.normal(size=50)
            made.append(Cell(name, budget, k, against=against, results={"m": result(values, up=True)}))
    board = leaderboard(made)
    assert row(board, "lima").random.value == pytest.approx(1, abs=0.05)
    assert row(board, "kcenter").random.value == pytest.approx(0, abs=0.05)


def test_longest_is_a_strategy_and_a_reference():
    board = leaderboard(cells({"random": 0, "longest": 1, "mine": 3}))
    assert row(board, "longest").verdict == "better"
    assert row(board, "longest").longest is None
    assert row(board, "mine").longest.value == pytest.approx(2, abs=0.1)
    assert row(board, "random").longest.value == pytest.approx(-1, abs=0.1)


def test_prompts_without_a_value_are_left_out_and_counted():
    made = cells({"random": 0, "mine": 1})
    broken = made[4].results["m"].values.copy()
    broken[[3, 7]] = np.nan
    made[4] = replace(made[4], results={"m": result(broken, "score", True)})
    board = leaderboard(made)
    assert (row(board, "mine").random.prompts, row(board, "mine").random.excluded) == (58, 2)
    assert "2 prompts lack a value" in board.render()


def test_prompts_are_matched_by_id_not_by_place():
    made = cells({"random": 0, "mine": 1}, noise=0.0)
    turned = made[4].results["m"]
    made[4] = replace(
        made[4],
        results={"m": EvalResult(turned.prompts[::-1], turned.values[::-1], "score", higher_is_better=True)},
    )
    fewer = made[5].results["m"]
    made[5] = replace(
        made[5],
        results={"m": EvalResult(fewer.prompts[5:], fewer.values[5:], "score", higher_is_better=True)},
    )
    found = row(leaderboard(made), "mine").random
    assert found.value == pytest.approx(1)
    assert found.se == pytest.approx(0, abs=1e-9)
    assert found.prompts == 55


def test_duplicate_prompts_share_a_cluster():
    def widths(facts):
        made = [
            replace(c, results={"m": result(np.repeat(c.results["m"].values, 2), "score", True, **facts)})
            for c in cells({"random": 0, "mine": 0.1}, noise=0.5, seeds=1)
        ]
        found = row(leaderboard(made), "mine").random
        return found.high - found.low

    labels = [i // 2 for i in range(120)]
    assert widths({"clusters": labels}) > 1.3 * widths({})


def test_unequal_seeds_are_paired_by_seed():
    made = [
        c for c in cells({"random": 0, "mine": 1}, seeds=5) if c.strategy == "random" or c.seed in {1, 2, 4}
    ]
    found = row(leaderboard(made), "mine")
    assert found.seeds == (1, 2, 4)
    assert found.random.seeds == 3


def test_a_failed_cell_is_reported_and_the_rest_is_compared():
    made = cells({"random": 0, "mine": 1}, seeds=4)
    made[-1] = Cell("mine", "1000", 3, failed="the loss was not finite at step 7")
    board = leaderboard(made)
    assert row(board, "mine").verdict == "better"
    assert row(board, "mine").seeds == (0, 1, 2)
    assert "mine at 1000, seed 3: the loss was not finite at step 7" in board.render()


def test_without_any_result_the_reasons_are_given():
    with pytest.raises(InputError, match="out of memory"):
        leaderboard([Cell("mine", "10", 0, failed="out of memory")])


def test_a_strategy_without_random_of_its_size_is_named():
    board = leaderboard([*cells({"random": 0, "mine": 1}), *cells({"other": 0}, budget="own")])
    assert row(board, "other").random is None
    assert "other at own" in board.render()


def test_missing_full_is_said():
    assert "full) is not in this comparison" in leaderboard(cells({"random": 0, "mine": 1})).render()
    assert "is not in this comparison" not in leaderboard(cells({"random": 0, "full": 1})).render()


def test_other_protocols_are_refused_with_what_differs():
    one, two = cells({"random": 0}), cells({"mine": 0})
    one = [replace(c, protocol={"model": "a", "recipe": "r"}) for c in one]
    two = [replace(c, protocol={"model": "b", "recipe": "r"}) for c in two]
    with pytest.raises(FolderError, match="model was a and is b"):
        leaderboard(one + two)


def test_a_bad_margin_and_a_prompt_named_twice_are_refused():
    made = cells({"random": 0, "mine": 0})
    with pytest.raises(SettingsError, match="margin"):
        leaderboard(made, margin=0.0)
    twice = EvalResult(("a", "a"), np.zeros(2), "m", higher_is_better=True)
    with pytest.raises(InputError, match="a prompt twice"):
        leaderboard([Cell("mine", "10", 0, results={"m": twice})])


def test_rates_at_the_edge_have_intervals_and_no_verdict_without_evidence():
    made = [
        Cell(name, "10", k, results={"exact": result([0.0] * 30, "exact match", True, bounds=[0, 1])})
        for name in ("random", "mine")
        for k in range(3)
    ]
    mine = row(leaderboard(made, margin=0.5), "mine")
    assert mine.value.low == 0
    assert 0.05 < mine.value.high < 0.2
    assert mine.random.low < 0 < mine.random.high
    assert mine.random.method == "square-and-add"
    assert mine.verdict != "better"
    solved = [replace(c, results={"exact": result([1.0] * 30, "exact match", True)}) for c in made[3:]]
    assert row(leaderboard(made[:3] + solved), "mine").verdict == "better"


def test_comparisons_of_one_protocol_merge():
    one, two = cells({"random": 0, "mine": 1}), cells({"random": 0, "other": 0.5})
    both = leaderboard([*one, *two])
    assert {r.strategy for r in both.rows} == {"random", "mine", "other"}
    assert row(both, "random").seeds == (0, 1, 2)
    again = leaderboard([*one, *[replace(c, train_seconds=7.0) for c in one]])  # another clock, the same cell
    assert [r.value for r in again.rows] == [r.value for r in leaderboard(one).rows]
    failed = [replace(c, results={}, failed="no memory") for c in one]
    assert leaderboard([*failed, *one]).failed == ()
    turned = []
    for cell in one:
        found = cell.results["m"]
        turned.append(
            replace(
                cell, results={"m": replace(found, prompts=found.prompts[::-1], values=found.values[::-1])}
            )
        )
    assert row(leaderboard([*one, *turned]), "mine").value == row(leaderboard(one), "mine").value


def test_cells_that_contradict_each_other_are_refused_by_name():
    made = cells({"random": 0, "mine": 1})
    off = made[4].results["m"]
    other = replace(made[4], results={"m": replace(off, values=off.values + 0.5)})
    first, second = off.values.mean(), off.values.mean() + 0.5
    with pytest.raises(FolderError, match="Strategy 'mine' at 1000, seed 1") as told:
        leaderboard([*made, other])
    assert f"m is {first:.6g} on average and {second:.6g} on average" in str(told.value)
    with pytest.raises(FolderError, match=r"seed 2, has two cells .* rows 1000 and 999"):
        leaderboard([*made, replace(made[5], rows=999)])
    few = replace(made[0], results={"m": result(made[0].results["m"].values[:30], "score", True)})
    with pytest.raises(FolderError, match=r"seed 0, has two cells .* 60 and 30 prompts"):
        leaderboard([*made, few])


def test_what_is_hidden_still_belongs_to_the_table():
    crowd = {"random": 0, "mine": 0.02} | {f"s{i}": 0 for i in range(9)}
    board = leaderboard(cells(crowd, noise=0.1), replicates=0)
    shown = board.showing([("random", "1000"), ("mine", "1000")])
    assert [r.strategy for r in shown.visible] == [
        r.strategy for r in board.rows if r.strategy in {"random", "mine"}
    ]
    assert (shown.finding, shown.hidden) == (board.finding, 9)
    whole, part = (b.render(width=200).splitlines() for b in (board, shown))
    assert [line.split() for line in part if line.startswith("mine")] == [
        line.split() for line in whole if line.startswith("mine")
    ]
    assert "9 rows of the table are hidden" in shown.render(width=200)
    assert "9 rows of the table are hidden" in shown.render("md")
    assert "hidden" not in board.render(width=200)
    assert json.loads(shown.render("json"))["hidden"] == 9
    entry = next(r for r in json.loads(shown.render("json"))["rows"] if r["strategy"] == "mine")
    assert (entry["p"], entry["verdict"]) == (row(board, "mine").p, row(board, "mine").verdict)
    assert len(list(csv.DictReader(io.StringIO(shown.render("csv"))))) == 2
    with pytest.raises(InputError, match="mine at 1000"):
        board.showing([("nobody", "1000")])


def test_the_command_hides_rows_and_nothing_else(tmp_path):
    crowd = {"random": 0, "mine": 0.02} | {f"s{i}": 0 for i in range(9)}
    for cell in cells(crowd, noise=0.1):
        write_cell(tmp_path / f"{cell.strategy}-{cell.seed}", cell)

    def told(*options):
        done = CliRunner().invoke(main, ["leaderboard", str(tmp_path), "--format", "json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    whole, part = told(), told("--strategies", "mine")
    assert {r["strategy"] for r in part["rows"]} == {"random", "mine"}
    assert part["rows"] == [r for r in whole["rows"] if r["strategy"] in {"random", "mine"}]
    assert part["finding"] == whole["finding"]
    assert part["hidden"] == 9
    assert told("--keep", "1000")["rows"] == whole["rows"]


def test_a_strategy_without_any_value_stands_in_the_table_with_the_reason():
    made = cells({"random": 0, "mine": 1, "other": 0.5})
    blank = [
        replace(c, results={"m": result(np.full(60, np.nan), "score", True)}) if c.strategy == "mine" else c
        for c in made
    ]
    board = leaderboard(blank)
    why = "none of the 60 prompts has a value in any of its 3 seeds"
    mine = row(board, "mine")
    assert (mine.reason, mine.verdict) == (why, "")
    assert math.isnan(mine.value.value)
    assert board.rows[-1] == mine  # last, whichever way is up
    assert row(board, "other").verdict == "better"
    assert row(board, "other").ranks == (1, 1)  # the blank one takes no rank and spoils none
    for style in ("table", "md"):
        text = board.render(style, 200)
        assert f"m: mine at 1000 has no value: {why}." in text
        assert "no value" in next(line for line in text.splitlines() if line.strip("| ").startswith("mine"))
    line = next(r for r in csv.DictReader(io.StringIO(board.render("csv"))) if r["strategy"] == "mine")
    assert (line["value"], line["reason"]) == ("", why)
    entry = next(r for r in json.loads(board.render("json"))["rows"] if r["strategy"] == "mine")
    assert (entry["value"]["value"], entry["reason"]) == (None, why)


def test_a_seed_without_any_value_is_said_and_the_others_count():
    made = cells({"random": 0, "mine": 1}, seeds=4)
    made[5] = replace(made[5], results={"m": result(np.full(60, np.nan), "score", True)})
    board = leaderboard(made)
    assert row(board, "mine").seeds == (0, 2, 3)
    assert row(board, "mine").verdict == "better"
    assert "m: mine at 1000, seed 1: no prompt has a value." in board.notes


@pytest.mark.parametrize(
    ("seeds", "prompts", "said"),
    [
        (1, 60, "one training seed allows intervals but no verdicts (three seeds are needed)"),
        (2, 60, "2 training seeds allow intervals but no verdicts (three seeds are needed)"),
        (3, 5, "5 prompts allow intervals but no verdicts (six prompts are needed)"),
        (3, 1, "one prompt allows no verdicts (six prompts are needed)"),
        (
            2,
            4,
            "2 training seeds and 4 prompts allow intervals but no verdicts (three seeds and six prompts are",
        ),
    ],
)
def test_what_is_missing_for_a_verdict_is_named(seeds, prompts, said):
    board = leaderboard(cells({"random": 0, "mine": 1}, seeds=seeds, prompts=prompts))
    assert f"On score, {said}" in board.finding
    assert row(board, "mine").verdict == ""
    assert row(board, "mine").reason in board.finding


def test_a_strategy_that_lacks_seeds_is_named_beside_the_others():
    made = [c for c in cells({"random": 0, "up": 1, "few": 1}) if c.strategy != "few" or c.seed < 2]
    said = leaderboard(made).finding
    assert "up (+" in said
    assert "of few, 2 training seeds allow intervals but no verdicts (three seeds are needed)" in said


def test_one_judge_and_an_absent_judge_are_named():
    alone = leaderboard(judged(judges=("a",)), replicates=0)
    assert any("one judge was asked" in note and "two judges are needed" in note for note in alone.notes)
    made = judged()
    facts = {**made[0].results["pairwise"].facts}
    facts["judges"] = {"a": facts["judges"]["a"]}
    made[0] = replace(made[0], results={"pairwise": replace(made[0].results["pairwise"], facts=facts)})
    assert any("judge b was asked in 5 of 6 results" in n for n in leaderboard(made, replicates=0).notes)


def test_the_interval_of_a_verdict_is_that_of_its_test():
    # The neighbours' seeds vary more than the strategy's own: the interval shows what decides.
    lucky, wild = lucky_among_wild()
    alone, crowd = row(leaderboard(lucky), "lucky"), row(leaderboard(lucky + wild), "lucky")
    assert alone.random.low > 0
    assert crowd.random.low < 0 < crowd.random.high
    assert crowd.random.detectable > 3 * alone.random.detectable


def test_power_is_that_of_all_tests_of_the_table():
    one = row(leaderboard(cells({"random": 0, "mine": 0}, noise=0.1)), "mine").random
    many = row(
        leaderboard(cells({"random": 0, "mine": 0} | {f"s{i}": 0 for i in range(9)}, noise=0.1)), "mine"
    ).random
    assert many.se == pytest.approx(one.se)
    assert many.detectable > 1.2 * one.detectable


def judged(seeds=3, prompts=90, lift=0.2, judges=("a", "b"), seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for name in ("mine", "longest"):
        for k in range(seeds):
            votes = {
                judge: np.clip(np.round(rng.normal(0.5 + lift * (name == "mine"), 0.3, prompts) * 4), 0, 4)
                / 4
                for judge in judges
            }
            facts = {
                "bounds": [0, 1],
                "null": 0.5,
                "against": "random",
                "health": {j: [prompts, 60, 150, 90, 70, 50, 0] for j in judges},
                "length_difference": (rng.normal(size=prompts) * 30).tolist(),
                "sets": ["koala"] * 40 + ["vicuna"] * (prompts - 40),
            }
            if len(judges) > 1:
                facts["judges"] = {judge: column.tolist() for judge, column in votes.items()}
            pooled = np.mean(list(votes.values()), axis=0)
            made.append(
                Cell(
                    name,
                    "10",
                    k,
                    results={"pairwise": result(pooled, "win rate against random", True, **facts)},
                )
            )
    return made


def test_what_decides_or_was_judged_is_not_left_out_without_a_word():
    board = leaderboard(judged(judges=("ann", "ben", "cleo")), replicates=50)
    titles = ["seeds", "p Holm", "MDE", "at equal length", "score (W/T/L)", "ann", "ben", "cleo"]
    for width in (60, 90, 120, 200, 400):
        text = board.render(width=width)
        head = next(line for line in text.splitlines() if line.startswith("strategy"))
        told = re.search(r"pairwise: ([^:.]*) (?:is|are) left out for want of room", " ".join(text.split()))
        left_out = [title for title in titles if title not in head]
        assert (told.group(1).split(", ") if told else []) == left_out
    assert "want of room" not in board.render("md")


def test_what_decides_is_left_out_last():
    text = leaderboard(wide(["random", "longest", "mine", "full"]), margin=0.1, replicates=50).render(
        width=120
    )
    head = next(line for line in text.splitlines() if line.startswith("strategy"))
    assert "p Holm" in head
    assert " rows " not in head


def test_csv_has_every_judge_the_counts_and_the_rate_at_equal_length():
    board = leaderboard(judged(judges=("ann", "ben")), replicates=50)
    for line, made in zip(csv.DictReader(io.StringIO(board.render("csv"))), board.rows, strict=True):
        tally = made.tallies["all"]
        assert [int(line[name]) for name in ("win", "tie", "lose")] == [tally.win, tally.tie, tally.lose]
        equal = [float(line[f"equal_length{end}"]) for end in ("", "_low", "_high")]
        assert equal == list(made.length_controlled)
        for name, found in made.judges.items():
            held = [float(line[f"judge_{name}{end}"]) for end in ("", "_low", "_high")]
            assert held == [found.value, found.low, found.high]
    alone = next(csv.DictReader(io.StringIO(leaderboard(cells({"random": 0, "mine": 1})).render("csv"))))
    assert alone["win"] == alone["equal_length"] == ""


def test_a_reason_to_fail_is_said_once():
    cells = [replace(cell, failed="no memory (exit 1)") if cell.seed else cell for cell in judged()]
    assert leaderboard(cells, replicates=0).failed == ("mine at 10, seed 1 and 3 more: no memory (exit 1)",)


def test_a_judge_that_rated_the_rows_is_named_where_its_family_evaluates_too():
    protocol = {"evaluations": {"pairwise": {"kind": "pairwise", "judges": [{"model": "gpt-4o"}]}}}
    cells = [replace(cell, protocol=protocol) for cell in judged()]
    assert not any("family" in note for note in leaderboard(cells, replicates=0).notes)
    cells[0] = replace(cells[0], selected_by=["gpt-4o-mini"])
    board = leaderboard(cells, replicates=0)
    assert any("the GPT family evaluates the models and selects the rows" in note for note in board.notes)


def test_win_rates_are_compared_with_parity():
    board = leaderboard(judged(), replicates=200)
    mine = row(board, "mine")
    assert mine.random.value == pytest.approx(mine.value.value - 0.5)
    assert mine.verdict == "better"
    assert row(board, "longest").verdict == "inconclusive"
    assert mine.longest.value == pytest.approx(mine.value.value - row(board, "longest").value.value)
    assert set(mine.judges) == {"a", "b"}
    assert set(mine.tallies) == {"koala", "vicuna", "all"}
    assert mine.tallies["all"].prompts == 270
    assert mine.tallies["koala"].prompts == 120
    assert set(mine.winning) == set(mine.tallies)
    for name, tally in mine.tallies.items():
        score = mine.winning[name]
        assert score.value == pytest.approx(tally.winning_score)
        assert 0 <= score.low < score.value < score.high <= 2
    line = next(r for r in csv.DictReader(io.StringIO(board.render("csv"))) if r["strategy"] == "mine")
    assert float(line["winning_score_low"]) < float(line["winning_score"]) == mine.winning["all"].value
    assert mine.winning["all"].se < min(mine.winning["koala"].se, mine.winning["vicuna"].se)
    rate, low, high = mine.length_controlled
    assert low < rate < high
    assert rate == pytest.approx(mine.value.value, abs=0.05)
    text = board.render(width=200)
    assert "the first position wins 60%" in text
    assert "both orders agree on 67%" in text
    assert "Krippendorff" in text
    assert row(board, "mine").ranks == (1, 1)


def test_win_rates_of_one_judge_have_no_columns_of_judges():
    board = leaderboard(judged(judges=("a",)), replicates=0)
    assert row(board, "mine").judges == {}
    assert row(board, "mine").length_controlled is None


def wide(strategies, metrics=1, seeds=3):
    made = []
    rng = np.random.default_rng(0)
    for name in strategies:
        for k in range(seeds):
            results = {
                f"metric-{m}": result(rng.normal(size=20), f"a metric numbered {m}", True)
                for m in range(metrics)
            }
            made.append(
                Cell(
                    name, "full" if name == "full" else "1000", k, rows=123_456_789, short=True,
                    response_tokens=10**10, trained_tokens=10**9, median_response_length=1234.5,
                    overlap=0.123, overlap_by_chance=0.1, selection_seconds=12345.0, selection_usd=123.45,
                    train_seconds=1e5, contaminated={"metric-0": 17}, results=results,
                )
            )  # fmt: skip
    return made


@given(
    st.lists(st.text("abcdefghij-", min_size=1, max_size=60), min_size=1, max_size=5, unique=True),
    st.sampled_from([60, 80, 120]),
)
@settings(max_examples=25)
def test_text_fits_the_terminal(names, width):
    board = leaderboard(wide(["random", *names, "full"]), margin=0.1, replicates=0)
    assert max(map(len, board.render(width=width).splitlines())) <= width


def test_formats_agree():
    board = leaderboard(wide(["random", "longest", "mine", "full"], metrics=2), margin=0.1, replicates=50)
    table = list(csv.DictReader(io.StringIO(board.render("csv"))))
    data = json.loads(board.render("json"))
    assert len(table) == len(data["rows"]) == len(board.rows) == 8
    assert data["schema"] == 1
    for line, entry, found in zip(table, data["rows"], board.rows, strict=True):
        assert line["strategy"] == entry["strategy"] == found.strategy
        assert float(line["value"]) == entry["value"]["value"] == found.value.value
        assert line["verdict"] == entry["verdict"] == found.verdict
        assert float(line["rows"]) == 123_456_789
    markdown = board.render("md")
    assert markdown.count("| mine (short) (!17) |") == 1
    titles = "rows,resp tok,trained tok,med len,overlap,sel $,sel s,train s,seeds,Δ random,p Holm,MDE"
    for title in [*titles.split(","), "Δ longest", "Δ full", "verdict"]:
        assert f"| {title} |" in markdown
    with pytest.raises(UnknownNameError, match="markdown"):
        board.render("markdown")


def test_same_cells_same_bytes():
    made = wide(["random", "mine", "full"])
    boards = [leaderboard(c, margin=0.1, replicates=200) for c in (made, made[::-1])]
    assert boards[0].render("json") == leaderboard(made, margin=0.1, replicates=200).render("json")
    assert boards[0].render("csv") == boards[1].render("csv")


def test_the_sentence_says_what_was_found():
    board = leaderboard(cells({"random": 0, "up": 1, "down": -1, "open": 0}))
    said = board.finding
    assert said.startswith("On score, up (+")
    assert "is better than random of the same size" in said
    assert "down (-" in said
    assert "open is inconclusive (differences under" in said
    assert said.count(".\n") == 0
    assert said.endswith(".")
    proxy = [
        replace(c, results={"m": replace(c.results["m"], facts={"proxy": True})})
        for c in cells({"random": 0, "mine": 1})
    ]
    assert "a proxy, not quality" in leaderboard(proxy).finding


# -- cells on disk -------------------------------------------------------------------------------


def test_cells_come_back_as_they_were(tmp_path):
    facts = {"proxy": True, "clusters": [0, 0, 1], "health": {"a": [1, 2, 3, 4, 5, 6, 7]}, "x": [None, 1.5]}
    values = np.array([0.1, math.nan, 1 / 3])
    kept = EvalResult(("a/1", "a/2", "ü"), values, "loss", higher_is_better=False, facts=facts)
    cell = Cell("mine", "5%", 2, rows=7, overlap=0.25, protocol={"model": "m"}, contaminated={"loss": 3},
                results={"held-out": kept})  # fmt: skip
    write_cell(tmp_path / "mine", cell)
    found = read_cell(tmp_path / "mine")
    assert replace(found, results={}).__dict__ == replace(cell, results={}).__dict__
    back = found.results["held-out"]
    assert np.array_equal(back.values, values, equal_nan=True)
    assert (back.prompts, back.metric, back.higher_is_better, back.facts) == (
        kept.prompts,
        "loss",
        False,
        facts,
    )
    assert [c.strategy for c in read_cells(tmp_path)] == ["mine"]


def test_damaged_results_are_named(tmp_path):
    with pytest.raises(FolderError, match="does not exist"):
        read_result(tmp_path / "no.json")
    for text in (
        "{",
        "[]",
        '{"values": [1]}',
        '{"values":[1],"prompts":[],"metric":"m","higher_is_better":true,"facts":{}}',
    ):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(FolderError, match="delete it"):
            read_result(tmp_path / "r.json")
    with pytest.raises(InputError, match="No cell"):
        read_cells(tmp_path)


def test_an_evaluation_that_is_finished_survives_without_its_cell(tmp_path):
    write_result(tmp_path / "results" / "m.json", result([1, 2]))
    write_cell(tmp_path, Cell("mine", "10", 0))
    assert set(read_cell(tmp_path).results) == {"m"}


def test_chance_overlap_is_that_of_random_draws():
    rng = np.random.default_rng(0)
    draws = [[set(rng.choice(200, size, replace=False)) for size in (50, 80)] for _ in range(400)]
    mean = np.mean([len(a & b) / len(a | b) for a, b in draws])
    assert chance_overlap(50, 80, 200) == pytest.approx(mean, rel=0.02)
    assert chance_overlap(200, 200, 200) == 1
    assert chance_overlap(0, 0, 10) == 0


def test_answers_cut_at_their_limit_are_in_the_notes():
    def made(strategy, seed, cut):
        told = {"cut": cut, "answers": 50} if cut is not None else {}
        return Cell(strategy, "10", seed, results={"exact": result([0, 1, 0], "exact match", True, **told)})

    found = leaderboard(
        [made("random", 0, 0), made("random", 1, 1), made("mine", 0, 20), made("mine", 1, 25)]
    )
    [note] = [note for note in found.notes if "cut" in note]
    assert note.startswith("exact: answers cut at their limit")
    assert "1% of random at 10" in note
    assert "45% of mine at 10" in note
    for cut in (0, None):
        quiet = leaderboard([made("random", 0, cut), made("mine", 0, cut)])
        assert not any("cut" in note for note in quiet.notes)


def test_questions_that_were_not_looked_for_are_in_the_notes():
    for facts, said in (({"harness": "0.4"}, True), ({}, False)):
        made = [Cell(s, "10", 0, results={"mmlu": result([0, 1], **facts)}) for s in ("random", "mine")]
        assert any("not looked for" in note for note in leaderboard(made).notes) == said


@pytest.mark.parametrize("bounds", [None, [1, 6], [0, 10]])
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_values_that_happen_to_be_zeros_and_ones_are_no_rate(bounds, constant):
    facts = {"bounds": bounds} if bounds else {}
    rng = np.random.default_rng(0)
    made = [
        Cell(name, "10", k, results={"m": result(values, "grade", up=True, **facts)})
        for name in ("random", "dull", "good")
        for k in range(3)
        for values in [rng.integers(1, 7, 12) if name == "good" else np.full(12, constant)]
    ]
    board = leaderboard(made)
    assert not board.metrics[0].rate
    dull = row(board, "dull")
    assert math.isnan(dull.value.low)  # a grade that never varies has no interval of a share
    assert "%" not in board.render().splitlines()[3]
    assert math.isfinite(row(board, "good").random.low)


def test_all_strategies_of_a_metric_are_treated_alike():
    def board(stated):
        return leaderboard([
            Cell(name, "10", k, results={"m": result([0, 1] * 4, "m", up=True, **stated.get(name, {}))})
            for name in ("random", "mine") for k in range(3)
        ])  # fmt: skip

    rate = {"bounds": [0, 1]}
    assert board({"random": rate, "mine": rate}).metrics[0].rate
    for stated in ({"random": rate}, {"mine": rate}, {"random": rate, "mine": {"bounds": [1, 6]}}):
        found = board(stated)
        assert not found.metrics[0].rate
        assert {r.value.method for r in found.rows} == {"two-way"}


def test_a_strategy_without_any_value_does_not_unmake_a_rate():
    made = [
        Cell(name, "10", k, results={"m": result(v, "m", up=True, **facts)})
        for name, v, facts in (("random", [0, 1], {"bounds": [0, 1]}), ("gone", [math.nan] * 2, {}))
        for k in range(3)
    ]
    assert leaderboard(made).metrics[0].rate
