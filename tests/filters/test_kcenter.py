from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter import strategy
from dfilter.data.dataset import Dataset
from dfilter.embed.sentences import Embedding
from dfilter.errors import SettingsError
from dfilter.filters import kcenter as module
from dfilter.filters.clusters import CLUSTERS as FOUND
from dfilter.filters.clusters import Clusters
from dfilter.filters.kcenter import STATE, TRAVERSAL, KCenter, Traversal
from dfilter.filters.order import content_order
from dfilter.pool import Pool, Store
from dfilter.progress import Silent
from dfilter.store.arrays import read_arrays, write_arrays


@dataclass(frozen=True)
class Written:
    """An embedding that stands in the response, as numbers; or a row of a matrix, by its number."""

    name: str = "written"

    matrix = np.empty((0, 0), np.float32)

    def spec(self) -> Mapping[str, str]:
        return {"name": self.name}

    def compute(self, rows: Sequence) -> np.ndarray:
        if self.name == "written":
            return np.array([[float(x) for x in row.response.split()] for row in rows], np.float32)
        return type(self).matrix[[int(row.response) for row in rows]].astype(np.float32)


def rows_of(X: np.ndarray) -> Dataset:
    return Dataset.from_rows(
        [{"instruction": f"Ask {i}", "output": " ".join(map(repr, x.tolist()))} for i, x in enumerate(X)]
    )


def order_of(made: KCenter, pool: Pool) -> list[int]:
    values = made.score(pool).values
    return [int(i) for i in np.argsort(-values) if not np.isnan(values[i])]


def reference(X: np.ndarray, k: int, given: Sequence[int]) -> list[int]:
    """Farthest-first in float64, the given rows first and farthest-first among themselves."""
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    picks = [min(given)]
    nearest = 1 - unit @ unit[picks[0]]
    while len(picks) < k:
        free = (
            np.array([i in given for i in range(len(X))])
            if len(picks) < len(given)
            else np.ones(len(X), bool)
        )
        free[picks] = False
        picks.append(int(np.where(free, nearest, -1).argmax()))
        nearest = np.minimum(nearest, 1 - unit @ unit[picks[-1]])
    return picks


def test_by_hand_on_a_line_of_angles() -> None:
    # The mean of rows at 0, 10, 80 and 170 degrees points to about 49: the row at 80 is nearest to it.
    # Then 170 (distance 1 - cos 90 = 1), then 0 (1 - cos 80 = 0.83), then 10 (1 - cos 10 = 0.02).
    angles = np.radians([0, 10, 80, 170])
    pool = Pool(rows_of(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    scores = KCenter(embedding=Written(), method="none").score(pool)
    assert scores.values.tolist() == [-2, -3, 0, -1]
    assert list(scores.reasons) == [
        "0.8264 from the nearest row taken before",
        "0.0152 from the nearest row taken before",
        "the first row taken",
        "1.0000 from the nearest row taken before",
    ]
    assert scores.groups is None


def test_unreached_rows_abstain_and_facts_are_radius_and_mean_distance() -> None:
    X = np.random.default_rng(0).normal(size=(40, 5))
    scores = KCenter(embedding=Written(), clusters=3).score(Pool(rows_of(X), wanted=6))
    assert np.isnan(scores.values).sum() == 34
    assert sorted(-scores.values[~np.isnan(scores.values)]) == list(range(6))
    assert scores.reasons[int(np.flatnonzero(np.isnan(scores.values))[0])] == "not reached"
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    distance = (1 - unit @ unit[~np.isnan(scores.values)].T).min(axis=1)
    assert scores.facts["covering_radius"] == pytest.approx(distance.max(), abs=1e-6)
    assert scores.facts["mean_distance"] == pytest.approx(distance.mean(), abs=1e-6)


def test_a_pool_ranked_whole_claims_no_radius() -> None:
    X = np.random.default_rng(0).normal(size=(12, 3))
    assert KCenter(embedding=Written(), clusters=2).score(Pool(rows_of(X))).facts == {}


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_the_starting_rows_are_the_ones_nearest_their_clusters_means(method: str) -> None:
    rng = np.random.default_rng(4)
    X = np.concatenate([rng.normal(size=(30, 6)) * 0.1 + 3 * rng.normal(size=6) for _ in range(4)])
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    pool = Pool(rows_of(X), wanted=9)
    scores = KCenter(embedding=Written(), method=method, clusters=4).score(pool)
    assert (np.bincount(scores.groups) > 0).sum() == 4
    started = set(np.argsort(-scores.values)[:4].tolist())
    for group in range(4):
        members = np.flatnonzero(scores.groups == group)
        central = members[((X[members] - X[members].mean(axis=0)) ** 2).sum(axis=1).argmin()]
        assert int(central) in started


@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 2**32), st.booleans())
@settings(max_examples=5)
def test_it_is_the_float64_reference_and_prefixes_hold(
    n: int, clusters: int, seed: int, doubled: bool
) -> None:
    X = np.random.default_rng(seed).normal(size=(n, 4)).round(2) + 0.001
    if doubled:
        X = np.concatenate([X, X[: n // 2]])
    rows = rows_of(X)
    store = Store()
    made = KCenter(embedding=Written(), clusters=clusters)
    full = order_of(made, Pool(rows, seed=seed % 3, store=store))
    content = content_order(rows)
    fit = Clusters(Written(), "kmeans", clusters, "cosine", seed % 3)
    given = read_arrays(Pool(rows, seed=seed % 3, store=store).fit(fit) / FOUND)["nearest"].tolist()
    k = len(np.unique(X, axis=0))  # equal rows come last, in an order that rounding decides in the reference
    expected = [int(content[i]) for i in reference(X[content], max(k, len(given)), given)]
    assert full[: len(expected)] == expected
    half = order_of(
        made, Pool(rows, seed=seed % 3, wanted=max(1, n // 2), store=Store(folder=store.folder / "b"))
    )
    assert full[: len(half)] == half


def test_the_order_of_the_rows_and_stored_longer_traversals_change_nothing(tmp_path) -> None:
    X = np.random.default_rng(1).normal(size=(50, 4))
    X[40:] = X[:10]
    rows, made = rows_of(X), KCenter(embedding=Written(), clusters=5)
    alone = made.score(Pool(rows, wanted=8, store=Store(folder=tmp_path / "a")))
    store = Store(folder=tmp_path / "b")
    made.score(Pool(rows, wanted=30, store=store))
    order = np.random.default_rng(2).permutation(50)
    after = made.score(Pool(rows.take(order), wanted=8, store=store))
    assert np.array_equal(alone.values[order], after.values, equal_nan=True)
    assert (np.asarray(alone.reasons)[order] == np.asarray(after.reasons)).all()
    assert alone.facts == after.facts


def test_a_smaller_budget_repeats_no_traversal_and_a_larger_one_continues(monkeypatch) -> None:
    X = np.random.default_rng(1).normal(size=(60, 4))
    rows, made, calls = rows_of(X), KCenter(embedding=Written(), clusters=5), []
    import dfilter.cluster.kcenter as walk

    traverse = walk.kcenter

    def counted(*args, **named):
        if "resume" in named:  # the starting rows are ordered by a traversal of their own
            calls.append(named["resume"])
        return traverse(*args, **named)

    monkeypatch.setattr(walk, "kcenter", counted)
    big = order_of(made, Pool(rows, wanted=20))
    assert order_of(made, Pool(rows, wanted=10)) == big[:10]
    assert len(calls) == 1
    assert order_of(made, Pool(rows, wanted=40))[:20] == big
    assert calls[0] is None
    assert sorted(calls[1]) == ["indices"]
    assert len(calls[1]["indices"]) == 20


class _Stops:
    """Progress that stops the work at its third report."""

    def __init__(self) -> None:
        self.reports = 0

    def stage(self, name: str, total: float | None = None, unit: str = "rows") -> _Stops:
        return self

    def say(self, line: str) -> None: ...

    def advance(self, amount: float, note: str = "") -> None:
        self.reports += 1
        if self.reports == 3:
            raise KeyboardInterrupt

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def calls(monkeypatch) -> list:
    """What each traversal of few picks a round, which saves its state every time, resumes."""
    import dfilter.cluster.kcenter as walk

    traverse, calls = walk.kcenter, []

    def small_blocks(*args, **named):
        calls.append(named["resume"])
        return traverse(*args, block=4, front=32, **named)

    monkeypatch.setattr(walk, "kcenter", small_blocks)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    return calls


def test_a_stopped_traversal_continues_from_its_saved_state(calls, tmp_path) -> None:
    X = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    rows, fit = rows_of(X), Traversal(Written(), "cosine", None)
    calm = Pool(rows, wanted=100, store=Store(tmp_path / "a")).fit(fit, length=100)
    undisturbed = read_arrays(calm / TRAVERSAL)["picks"]
    store = Store(tmp_path / "b")
    Pool(rows, store=store).signal(Written())
    with pytest.raises(KeyboardInterrupt):
        Pool(rows, wanted=100, store=store, progress=_Stops()).fit(fit, length=100)
    folder = Pool(rows, wanted=100, store=store).fit(fit, length=100)
    assert calls[-1] is not None
    assert len(calls[-1]["indices"]) > 0
    assert (read_arrays(folder / TRAVERSAL)["picks"] == undisturbed).all()
    assert sorted(p.name for p in folder.iterdir()) == ["seal.json", TRAVERSAL]


@pytest.mark.parametrize("damage", ["flip", "cut", "another", "none of ours"])
def test_a_damaged_state_is_ignored_with_a_line(calls, monkeypatch, tmp_path, damage) -> None:
    X = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    rows, fit = rows_of(X), Traversal(Written(), "cosine", None)
    calm = Pool(rows, wanted=100, store=Store(tmp_path / "a")).fit(fit, length=100)
    store = Store(tmp_path / "b")
    Pool(rows, store=store).signal(Written())
    with pytest.raises(KeyboardInterrupt):
        Pool(rows, wanted=100, store=store, progress=_Stops()).fit(fit, length=100)
    (state,) = (tmp_path / "b" / "fits").rglob(STATE)
    whole = state.read_bytes()
    if damage == "another":
        write_arrays(state, read_arrays(state).arrays, {"fit": "another"})
    else:
        flipped = whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]
        state.write_bytes({"flip": flipped, "cut": whole[:-1], "none of ours": b"PK" + whole}[damage])
    said: list[str] = []
    monkeypatch.setattr(Silent, "say", lambda _, line: said.append(line))
    folder = Pool(rows, wanted=100, store=store).fit(fit, length=100)
    assert calls[-1] is None
    assert said == [f"The saved state of {folder.parent.name} is damaged; it starts anew."]
    assert (folder / TRAVERSAL).read_bytes() == (calm / TRAVERSAL).read_bytes()
    assert not (folder / STATE).exists()


def test_one_row_and_more_clusters_than_rows() -> None:
    assert KCenter(embedding=Written()).score(Pool(rows_of(np.ones((1, 3))))).values.tolist() == [0]
    X = np.random.default_rng(0).normal(size=(5, 3))
    assert sorted(KCenter(embedding=Written(), clusters=50).score(Pool(rows_of(X))).values) == [
        -4,
        -3,
        -2,
        -1,
        0,
    ]


def test_the_seed_starts_kmeans_and_nothing_else() -> None:
    assert KCenter(method="none").deterministic
    assert KCenter(method="agglomerative").deterministic
    assert not KCenter().deterministic
    fits = [
        Clusters(Embedding(), method, 5, "cosine", seed).spec()
        for method in ("kmeans", "agglomerative")
        for seed in (0, 1)
    ]
    assert fits[0] != fits[1]
    assert fits[2] == fits[3]


def test_no_clusters_are_refused_with_the_way_out() -> None:
    with pytest.raises(SettingsError, match="method = 'none' does without"):
        KCenter(clusters=0)


def test_the_built_in_strategies_are_ltds_line_and_its_fast_form() -> None:
    fast, ltd = strategy.load("kcenter"), strategy.load("ltd")
    assert (fast.keep, ltd.keep) == ("5%", "0.5%")
    assert fast.filters[0] == KCenter()
    plain = Embedding(model="bert-base-uncased", pooling="mean", system=True, long="cut")
    assert ltd.filters[0].embedding == plain
    assert (ltd.steps[0].name, ltd.filters[0].clusters) == ("ltd", 20)


@pytest.fixture
def numbered(test_data) -> Dataset:
    Written.matrix = np.load(test_data / "embeddings" / "instructions_52k_minilm_f16.npy", mmap_mode="r")
    return Dataset.from_rows([{"instruction": f"Row {i}", "output": str(i)} for i in range(5000)])


def test_5000_real_vectors_give_the_reference_index_by_index(numbered: Dataset) -> None:
    made = KCenter(embedding=Written("real"))
    scores = made.score(Pool(numbered, wanted=250))
    found = [int(i) for i in np.argsort(-scores.values)[:250]]
    content = content_order(numbered)
    place = np.argsort(content)
    X = np.asarray(Written.matrix[:5000])[content]
    expected = [int(content[i]) for i in reference(X, 250, [int(place[i]) for i in found[:20]])]
    assert found == expected


def test_its_radius_is_below_those_of_twenty_random_subsets(numbered: Dataset) -> None:
    facts = KCenter(embedding=Written("real")).score(Pool(numbered, wanted=250)).facts
    X = np.asarray(Written.matrix[:5000]).astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    radii = []
    for _ in range(20):
        nearest = (1 - X @ X[rng.choice(5000, 250, replace=False)].T).min(axis=1)
        radii.append(nearest.max())
    assert facts["covering_radius"] < min(radii)


@pytest.mark.slow
def test_alpaca_rows_give_the_reference_and_a_radius_below_random(test_data) -> None:
    lines = json.loads((test_data / "alpaca" / "alpaca_data.json").read_text())[:5000]
    rows = Dataset.from_rows(lines)
    pool = Pool(rows, wanted=250)
    scores = KCenter().score(pool)
    content = content_order(rows)
    place = np.argsort(content)
    found = [int(i) for i in np.argsort(-scores.values)[:250]]
    X = pool.signal(Embedding())
    assert found == [int(content[i]) for i in reference(X[content], 250, [int(place[i]) for i in found[:20]])]
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    radii = [(1 - unit @ unit[rng.choice(len(X), 250, replace=False)].T).min(axis=1).max() for _ in range(20)]
    assert scores.facts["covering_radius"] < min(radii)
