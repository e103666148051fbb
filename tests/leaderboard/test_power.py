"""Planning: what a number of seeds and prompts can find, checked by simulation and inversion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dfilter import outlook
from dfilter.comparison import Comparison, Evaluation, Setting
from dfilter.leaderboard import leaderboard, planning, power
from dfilter.leaderboard.cells import Cell
from dfilter.leaderboard.planning import TYPICAL, Kind
from dfilter.leaderboard.statistics import pooled, two_sided, two_way
from dfilter.llm.server import Server
from dfilter.outlook import Group
from dfilter.types import EvalResult


def differences(noise, k, n, effect, tables, seed=0):
    rng = np.random.default_rng(seed)
    data = (
        effect + noise.prompt * rng.normal(size=(tables, 1, n)) + noise.rest * rng.normal(size=(tables, k, n))
    )
    return data + noise.training * rng.normal(size=(tables, k, 1))


@pytest.fixture
def few_tables(monkeypatch):
    """Draw fewer tables, where the power is not what is looked at."""
    monkeypatch.setattr(planning, "TABLES", 30)
    planning.smallest.cache_clear()
    yield
    planning.smallest.cache_clear()


def tables(noise, k, n, strategies, count, seed=0):
    """Scores of (table, model, seed, prompt) whose differences have this noise."""
    rng = np.random.default_rng(seed)
    shape = (count, strategies + 1)
    data = noise.prompt * rng.normal(size=(*shape, 1, n)) + noise.rest * rng.normal(size=(*shape, k, n))
    return (data + noise.training * rng.normal(size=(*shape, k, 1))) / math.sqrt(2)


@pytest.mark.parametrize(
    ("noise", "strategies", "tests"),
    [
        (power.Noise(0.0, 0.3, 0.2), 1, 1),
        (power.Noise(0.01, 0.3, 0.3), 3, 3),
        (power.Noise(0.03, 0.2, 0.4), 3, 6),
    ],
)
def test_the_smallest_difference_is_found_about_eight_times_in_ten(noise, strategies, tests):
    # By the test that decides: the larger of two p, at Holm's first step.
    effect = power.smallest_difference(noise, 3, 200, power.Family(tests, strategies))
    data = tables(noise, 3, 200, strategies, 800)
    reference, peers = two_way(data[:, 0]), [two_way(data[:, i + 1]) for i in range(strategies)]
    own = two_way(data[:, 1] + effect - data[:, 0])
    worst = np.maximum(
        *(two_sided(own.mean, v, df) for v, df in ((own.variance, own.df), pooled(own, peers, reference)))
    )
    assert (worst <= 0.05 / tests).mean() == pytest.approx(0.8, abs=0.05)


def test_published_figures_without_training_noise():
    # An SD of 0.313 per prompt: 730 prompts find 3.2 points, 180 find 6.5.
    noise = power.Noise(0.0, 0.313, 0.0)
    assert power.smallest_difference(noise, 1, 730) == pytest.approx(0.032, abs=0.001)
    assert power.smallest_difference(noise, 1, 180) == pytest.approx(0.065, abs=0.001)


@pytest.mark.usefixtures("few_tables")
@pytest.mark.parametrize("effect", [0.05, 0.15])
def test_prompts_needed_is_the_inverse(effect):
    kind, family = Kind(power.Noise(0.005, 0.3, 0.2)), power.Family(4)
    for seeds in (3, 5):
        n = planning.prompts_needed(effect, kind, seeds, family)
        assert planning.smallest(kind, seeds, n, family) <= effect * 1.01
        assert planning.smallest(kind, seeds, n - 1, family) > effect


@pytest.mark.usefixtures("few_tables")
def test_the_fewest_prompts_are_told_where_more_find_less():
    # Of very many prompts only the seeds' noise is left, of which three seeds say little.
    kind, family = TYPICAL["loss"], power.Family(12, 3)
    effect = planning.smallest(kind, 3, 80, family)
    assert effect < planning.smallest(kind, 3, planning.MOST_PROMPTS, family)
    assert 60 <= planning.prompts_needed(effect, kind, 3, family) <= 80


def test_prompts_cannot_make_up_for_training_noise():
    kind, family = Kind(power.Noise(0.05, 0.3, 0.2)), power.Family()
    assert planning.prompts_needed(0.01, kind, 3, family) == 0
    few, *_, many = planning.plans(0.055, kind, family=family, seeds=(3, 10))
    assert few.prompts == 0
    assert many.prompts > 0


@pytest.mark.usefixtures("few_tables")
def test_more_comparisons_more_seeds_more_prompts():
    kind = TYPICAL["rate"]
    for prompts in (30, 500):
        base = planning.smallest(kind, 3, prompts, power.Family())
        assert planning.smallest(kind, 3, prompts, power.Family(6)) > base
        assert planning.smallest(kind, 5, prompts, power.Family()) < base
        assert planning.smallest(kind, 3, prompts * 2, power.Family()) < base


def test_noise_is_read_from_a_measured_difference():
    true = power.Noise(0.05, 0.3, 0.4)
    found = [power.Noise.of(two_way(table)) for table in differences(true, 6, 400, 0.0, 200)]
    for name in ("training", "prompt", "rest"):
        mean = np.sqrt(np.mean([getattr(noise, name) ** 2 for noise in found]))
        assert mean == pytest.approx(getattr(true, name), rel=0.1)
    assert math.isnan(power.Noise.of(two_way(np.random.default_rng(0).normal(size=(1, 9)))).training)


def shares(values):
    return np.clip(np.round(4 * values + 2) / 4, 0, 1)


def usual(kind, prompts, effect, *, parity, seed):
    """The values of random, or of parity, and of two strategies at usual noise, the first ``effect`` off."""
    rng = np.random.default_rng(seed)
    noise, k = TYPICAL[kind].noise, 3
    shape, models = (3, k, prompts), rng.normal(size=(3, k, 1))
    if kind == "rate":  # from an uneven place of the scale; strategies disagree on a quarter at its middle
        parts = math.sqrt(0.704), math.sqrt(0.083), math.sqrt(0.213)
        values = parts[0] * rng.normal(size=prompts) + parts[1] * rng.normal(size=(3, 1, prompts))
        values = values + parts[2] * rng.normal(size=shape) + noise.training * 2.5 / math.sqrt(2) * models
        low = min(0.4, 0.98 - effect)
        bounds = stats.norm.isf([low, low + effect, low])
        return (values > bounds[:, None, None]).astype(float)
    spread = 1.0 if parity else math.sqrt(0.5)
    values = noise.prompt * rng.normal(size=(3, 1, prompts)) + noise.rest * rng.normal(size=shape)
    values = spread * (values + noise.training * models)
    if kind == "loss":
        values[1] += effect
        return values
    even = math.hypot(noise.prompt, noise.rest) * stats.norm.ppf((np.arange(999) + 0.5) / 999)
    places = np.linspace(0, 1.5, 301)  # the mean moves less than the normals do: the scale ends
    values[1] += np.interp(effect, [shares(even + place).mean() - 0.5 for place in places], places)
    return shares(values)


@pytest.mark.parametrize(
    ("kind", "prompts", "count"),
    [
        ("rate", 20, 100),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [
            ("rate", 12, 100), ("rate", 50, 100), ("win rate", 12, 100), ("loss", 8, 60),
        ]),
    ],
)  # fmt: skip
def test_the_planned_difference_of_few_prompts_is_found_about_four_times_in_five(kind, prompts, count):
    parity = kind == "win rate"
    family = power.Family(tests=2, strategies=2, parity=parity)
    effect = planning.smallest(TYPICAL[kind], 3, prompts, family)
    facts = {} if kind == "loss" else {"bounds": [0, 1]}
    facts |= {"null": 0.5, "against": "random"} if parity else {}
    ids, found = tuple(map(str, range(prompts))), 0
    for table in range(count):
        values = usual(kind, prompts, effect, parity=parity, seed=table)
        made = [
            Cell(name, "10", k, results={"m": EvalResult(ids, values[m, k], "m", True, facts)})
            for m, name in enumerate(("random", "mine", "other"))
            for k in range(3)
            if m or not parity
        ]
        rows = leaderboard(made, replicates=0).rows
        found += next(row.verdict for row in rows if row.strategy == "mine") == "better"
    assert found / count == pytest.approx(0.8, abs=0.13)


@pytest.mark.usefixtures("few_tables")
@pytest.mark.parametrize("kind", ["rate", "win rate", "loss"])
@pytest.mark.parametrize("tests", [1, 12])
def test_too_few_prompts_find_nothing_and_no_scale_is_exceeded(kind, tests):
    family = power.Family(tests, parity=kind == "win rate")
    least = math.ceil(1 + math.log2(tests / 0.05))
    for prompts in (2, least - 1, least, least + 1):
        found = planning.smallest(TYPICAL[kind], 3, prompts, family)
        assert found == math.inf if prompts < least else found > 0
        assert not TYPICAL[kind].room(parity=family.parity) <= found < math.inf
    for effect in (0.3, 0.45):
        assert not 0 < planning.prompts_needed(effect, TYPICAL[kind], 3, family) < least


@pytest.mark.parametrize(
    "kind", ["rate", *(pytest.param(k, marks=pytest.mark.slow) for k in ["win rate", "loss"])]
)
def test_drawn_tables_and_the_formula_meet(kind):
    for family in (power.Family(2, 2), power.Family(8, 4, parity=kind == "win rate")):
        drawn, computed = (
            planning.smallest(TYPICAL[kind], 3, planning.FEW_PROMPTS + more, family) for more in (0, 1)
        )
        assert drawn == pytest.approx(computed, rel=0.1)


def planned(tmp_path, seeds=3, prompts=200, kinds=("exact", "heldout"), **more):
    """The lines about power of a plan of two strategies, longest and full, and of some evaluations."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "Say {n}.", "response": "{n}"}}\n' for n in range(prompts)))
    judged = {"judges": (Server("judge", base_url="http://127.0.0.1:9/v1"),)}
    evaluations = [
        Evaluation(kind, kind, {"source": str(file)} | (judged if kind in {"grade", "pairwise"} else {}))
        for kind in kinds
    ]
    plan = Comparison(tmp_path / "out", model="words", seeds=seeds, **more)
    setting = Setting(plan, "", evaluations, {}, {})
    found = [Group(name, "1000", seeds, 1000) for name in ("a", "b", "random", "longest")]
    found.append(Group("full", "full", seeds, 9))
    return list(outlook._power(setting, found))


@pytest.mark.usefixtures("few_tables")
def test_a_plan_has_the_power_of_all_tests_of_its_table(tmp_path):
    lines = planned(tmp_path)
    family = power.Family(tests=6, strategies=3)
    for name, kind in (("exact", "rate"), ("heldout", "loss")):
        reach = planning.smallest(TYPICAL[kind], 3, 200, family)
        assert any(line.startswith(f"{name}: 200 prompts") and f" of {reach:.3g} " in line for line in lines)
    assert any("6 verdicts" in line for line in lines)


@pytest.mark.usefixtures("few_tables")
@pytest.mark.parametrize("prompts", [3, 7])
def test_a_plan_of_too_few_prompts_says_how_many_a_verdict_needs(tmp_path, prompts):
    lines = planned(tmp_path, prompts=prompts)
    for name in ("exact", "heldout"):
        said = (
            f"{name}: {prompts} prompts allow no verdict where a table has 6 verdicts; 8 are needed at least"
        )
        assert said in lines
    assert not any("80% power" in line for line in lines)


@pytest.mark.usefixtures("few_tables")
def test_a_plan_does_not_promise_what_the_scale_does_not_hold(tmp_path):
    assert planned(tmp_path, prompts=8, kinds=("exact",) * 4)[0].endswith("needed at least")
    lines = planned(tmp_path, prompts=9, kinds=("exact",) * 4)
    assert lines[0].startswith("exact: 9 prompts and 3 seeds find")
    too_much = planned(tmp_path, margin=2.0)
    assert "  exact: a difference of 2 (rate) cannot be; the largest there is is 1" in too_much
    assert any(line.startswith("  heldout: a difference of 2 (loss) needs") for line in too_much)


@pytest.mark.usefixtures("few_tables")
@pytest.mark.parametrize("prompts", [3, 60])
def test_every_evaluation_has_a_sentence(tmp_path, prompts):
    lines = planned(tmp_path, prompts=prompts, kinds=("exact", "grade", "lm-eval"))
    for name in ("grade", "lm-eval"):
        assert any(line.startswith(f"{name}: nothing is known of its noise") for line in lines)
    assert any(line.startswith("grade: 3 prompts allow no verdict") for line in lines) == (prompts == 3)


@pytest.mark.usefixtures("few_tables")
def test_a_plan_without_verdicts_promises_no_power(tmp_path):
    lines = planned(tmp_path, seeds=2)
    assert not any("80% power" in line for line in lines)
    assert lines[-1].startswith("Fewer than three seeds")
    needs = [line for line in lines if " needs " in line]
    assert len(needs) == 6
    assert all(line.startswith(("  exact: ", "  heldout: ")) for line in needs)
    assert all(("(rate)" if "exact" in line else "(loss)") in line for line in needs)
