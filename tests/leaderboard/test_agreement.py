"""Judgements: published counts, reference routines, and judges whose flaws are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dfilter.leaderboard import agreement as a

NAN = math.nan


def published(test_data, name):
    folder = test_data / "judgements" / "alpagasus2"
    forward = json.loads((folder / f"alpagasus2-alpaca2-{name}.json").read_text())
    backward = json.loads((folder / f"alpaca2-alpagasus2-{name}.json").read_text())
    one, two = (np.array([row["score"] for row in part]) for part in (forward, backward))
    lengths = np.array([len(row["alpagasus2"]) - len(row["alpaca2"]) for row in forward])
    return a.verdicts(one[:, 0], one[:, 1]), a.verdicts(two[:, 1], two[:, 0]), lengths


@pytest.mark.parametrize(("name", "counts"), [("koala", (94, 71, 15)), ("vicuna", (40, 38, 2))])
def test_published_judgements_give_the_published_counts(test_data, name, counts):
    first, second, _ = published(test_data, name)
    found = a.tally(first, second)
    assert (found.win, found.tie, found.lose) == counts
    assert found.winning_score == pytest.approx((counts[0] - counts[2]) / sum(counts) + 1)
    said = json.loads((test_data / "judgements" / "alpagasus2" / f"{name}_result.json").read_text())
    assert counts == (said["win"], said["draw"], said["lose"])


def test_published_judgements_show_what_one_order_hides(test_data):
    first, second, lengths = published(test_data, "koala")
    health = a.judge_health(first, second, lengths)
    assert 0.37 <= 1 - health.consistency <= 0.48
    assert 0.61 <= 1 - health.first_share <= 0.73  # this judge favours the second position
    assert 0.73 <= health.longer_share <= 0.83
    rate, low, high = a.length_controlled(a.win_shares(first, second), lengths)
    raw = a.win_shares(first, second).mean()
    assert low < rate < high
    assert rate < raw  # the winner's answers are longer


def test_pandalm_agreement_equals_the_reference_routine(test_data):
    from sklearn.metrics import cohen_kappa_score

    folder = test_data / "preferences" / "pandalm"
    rows = json.loads((folder / "testset-v1.json").read_text())
    judge = json.loads((folder / "gpt-3.5-turbo-testset-v1.json").read_text())
    assert [r["idx"] for r in rows] == [r["idx"] for r in judge]
    people = [[str(row[f"annotator{i}"]) for row in rows] for i in (1, 2, 3)]
    between = [a.cohen_kappa(people[i], people[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sorted(round(k, 3) for k in between) == [0.852, 0.862, 0.879]
    model = ["0" if row["gpt_result"] == "Tie" else row["gpt_result"] for row in judge]
    parsed = [at for at, said in enumerate(model) if said in {"0", "1", "2"}]
    assert len(parsed) == 999 - 25
    for labels in people:
        mine, theirs = [labels[at] for at in parsed], [model[at] for at in parsed]
        assert a.cohen_kappa(mine, theirs) == pytest.approx(cohen_kappa_score(mine, theirs), abs=1e-12)
        assert 0.3 < a.cohen_kappa(mine, theirs) < 0.8


def test_tally_by_hand():
    # win+win, win+tie, tie+tie, win+lose, tie+lose, lose+lose, and one without its second order
    first = [1, 1, 0, 1, 0, -1, 1]
    second = [1, 0, 0, -1, -1, -1, NAN]
    found = a.tally(first, second)
    assert (found.win, found.tie, found.lose, found.prompts) == (2, 2, 2, 6)
    assert found.winning_score == 1
    shares = a.win_shares(first, second)
    assert shares[:6].tolist() == [1, 0.75, 0.5, 0.5, 0.25, 0]
    assert math.isnan(shares[6])


def test_a_judge_that_only_looks_at_position_gives_fifty_percent():
    rng = np.random.default_rng(0)
    for likes_first in (True, False):
        side = np.where(rng.random(730) < 0.9, 1.0, 0.0) * (1 if likes_first else -1)
        shares = a.win_shares(side, -side)
        assert abs(shares.mean() - 0.5) <= 0.005
        health = a.judge_health(side, -side)
        assert health.first_share == (1.0 if likes_first else 0.0)
        assert health.consistency < 0.2
        assert "see" in health.describe()  # the warning


def test_health_by_hand_and_added_up():
    first, second, gap = [1, 1, 0, -1, NAN], [1, -1, 0, -1, 1], [10, 5, 3, 4, 1]
    health = a.judge_health(first, second, gap)
    # Three of four agree; six decisive verdicts, of which the first position won 1 + 1 (first) and 2
    # (second order: lost ones were won by the opponent, who stood first). Decided: +10 won, +4 lost.
    assert health.counts() == (4, 3, 6, 4, 2, 1, 1)
    assert (health + health).counts() == (8, 6, 12, 8, 4, 2, 2)
    assert (health + health).consistency == health.consistency


def test_length_control_removes_a_judge_that_only_looks_at_length():
    rng = np.random.default_rng(0)
    gap = rng.normal(loc=100, scale=150, size=(3, 400))
    shares = (rng.random((3, 400)) < 1 / (1 + np.exp(-3 * np.tanh(gap / gap.std())))).astype(float)
    rate, low, high = a.length_controlled(shares, gap)
    assert shares.mean() > 0.65
    assert low < 0.5 < high
    assert rate == pytest.approx(0.5, abs=0.06)


def test_length_control_without_length_differences_is_the_win_rate():
    shares = np.array([1, 1, 1, 0.5, 0, 0.25, 1, 1] * 20)
    rate, low, high = a.length_controlled(shares, np.zeros(160))
    assert rate == pytest.approx(shares.mean(), abs=1e-3)
    se = shares.std() / math.sqrt(160)
    assert (high - low) / 2 == pytest.approx(1.96 * se, rel=0.15)
    everything = a.length_controlled(np.ones(50), np.arange(50.0))
    assert 0.95 < everything[0] <= 1
    assert math.isfinite(everything[1])


def test_length_control_fits_the_logistic_curve_of_sklearn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    gap = rng.normal(size=500) * 80 + 20
    x = np.tanh(gap / gap.std())
    won = (rng.random(500) < 1 / (1 + np.exp(-(0.4 + x)))).astype(float)
    fit = LogisticRegression(C=np.inf).fit(x[:, None], won)
    rate, _, _ = a.length_controlled(won, gap, replicates=10)
    assert rate == pytest.approx(1 / (1 + math.exp(-fit.intercept_[0])), abs=1e-3)


def test_cohen_by_hand():
    # Agreement 0.7; margins (0.5, 0.5) and (0.6, 0.4) give chance 0.5.
    one = ["y"] * 25 + ["n"] * 25
    two = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert a.cohen_kappa(one, two) == pytest.approx((0.7 - 0.5) / 0.5)
    assert a.cohen_kappa(one, one) == pytest.approx(1)
    assert math.isnan(a.cohen_kappa([1, 1], [1, 1]))
    with pytest.raises(ValueError, match="same items"):
        a.cohen_kappa([1], [1, 2])


def test_fleiss_by_hand():
    # Three raters, two labels, items 3-0, 2-1, 1-2, 0-3: agreement (1 + 1/3 + 1/3 + 1) / 4, chance 1/2.
    ratings = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert a.fleiss_kappa(ratings) == pytest.approx((2 / 3 - 0.5) / 0.5)


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), part C and E.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_published_example(level, alpha):
    assert a.krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=5e-4)


def test_krippendorff_without_anything_to_compare_is_nan():
    assert math.isnan(a.krippendorff_alpha([[1, NAN], [NAN, 2]]))
    assert math.isnan(a.krippendorff_alpha([[3, 3], [3, 3]]))
    assert a.krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == 1
