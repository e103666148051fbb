"""Greedy k-center picks what the plain algorithm picks, bit for bit, whatever it is told about speed."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dfilter.cluster import pairs, products, traversal
from dfilter.cluster.kcenter import KCenter, State, Status, coverage, kcenter
from dfilter.cluster.precision import bf16_pays, exact_products
from dfilter.cluster.products import Centres, Space, checked

Matrix = NDArray[np.float32]
PRECISIONS = ("f32", "bf16")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Tiny products in several threads mostly wait for each other; tests that want two say so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scales(X: Matrix, metric: str) -> NDArray[np.float64]:
    lengths = np.sqrt([pairs.lane_sum(x, 1.0, x, 0.0) for x in X])
    if metric == "euclidean":
        return np.ones(len(X))
    return np.divide(1.0, lengths, out=np.zeros(len(X)), where=lengths > 0)


def reference(
    X: Matrix,
    k: int,
    metric: str,
    first: list[int],
    among: list[int] | None = None,
    vectors: Matrix | None = None,
) -> tuple[list[int], list[float]]:
    """The plain algorithm: one pass over all rows for every pick."""
    all_points = X if vectors is None else np.concatenate([X, vectors])
    scale = scales(all_points, metric)
    value = np.full(len(X), np.inf)
    picks: list[int] = []
    radius: list[float] = []
    for v in range(len(X), len(all_points)):
        value = np.minimum(
            value, [pairs.pair(x, s, all_points[v], scale[v]) for x, s in zip(X, scale, strict=False)]
        )
    allowed = np.zeros(len(X), bool)
    allowed[range(len(X)) if among is None else among] = True
    while len(picks) < k:
        open_rows = np.where(allowed, value, -1)
        open_rows[picks] = -1
        pick = first[len(picks)] if len(picks) < len(first) else int(open_rows.argmax())
        radius.append(value[pick] / 2 if metric == "cosine" else np.sqrt(value[pick]))
        picks.append(pick)
        value = np.minimum(
            value, [pairs.pair(x, s, X[pick], scale[pick]) for x, s in zip(X, scale, strict=False)]
        )
        if among is not None and len(picks) == len(among):
            allowed[:] = True
    return picks, radius


def clustered(n: int, d: int, seed: int, kind: str) -> Matrix:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    if kind == "clustered":
        X = X[rng.integers(max(n // 8, 1), size=n)] + 0.05 * X
    if kind == "duplicated":
        X = X[rng.integers(max(n // 3, 1), size=n)]
    if kind == "equal":
        X = np.repeat(X[:1], n, axis=0)
    if kind == "grid":  # many exact ties
        X = rng.integers(-1, 2, size=(n, d)).astype(float)
    if kind == "parallel":
        X = X[rng.integers(max(n // 3, 1), size=n)] * 2.0 ** rng.integers(-3, 4, size=(n, 1))
    if kind == "huge":
        X *= 10.0 ** rng.integers(-30, 30)
    return X.astype(np.float32)


KINDS = ("random", "clustered", "duplicated", "equal", "grid", "parallel", "huge")


def small_batches() -> ExitStack:
    """Cut everything that is done in batches into many."""
    stack = ExitStack()
    stack.enter_context(
        mock.patch.multiple(products, COLUMNS=8, OUTPUT={"cpu": 96}, READ_ROWS=16, PART_ROWS=4)
    )
    stack.enter_context(mock.patch.object(traversal, "FEW_ROWS", 2))
    return stack


@settings(max_examples=120)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 37),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    block=st.sampled_from((1, 7, 512)),
    front=st.sampled_from((1, 5, 64)),
    precision=st.sampled_from(PRECISIONS),
    threads=st.sampled_from((1, 2)),
    batches=st.sampled_from((ExitStack, small_batches)),
    data=st.data(),
)
def test_the_sequence_is_that_of_the_plain_algorithm(
    n, d, seed, kind, metric, block, front, precision, threads, batches, data
):
    X = clustered(n, d, seed, kind)
    k = data.draw(st.integers(1, n))
    start = data.draw(st.integers(0, n - 1))
    with batches():
        found = kcenter(
            X, k, start=start, metric=metric, block=block, front=front, precision=precision, threads=threads
        )
    picks, radius = reference(X, k, metric, [start])
    assert found.indices.tolist() == picks
    np.testing.assert_array_equal(found.radius, radius)


@settings(max_examples=40)
@given(
    n=st.integers(2, 50),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    precision=st.sampled_from(PRECISIONS),
    data=st.data(),
)
def test_given_rows_come_first_and_farthest_first_among_themselves(n, seed, kind, metric, precision, data):
    X = clustered(n, 6, seed, kind)
    given_rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    k = data.draw(st.integers(1, n))
    found = kcenter(X, k, init=np.array(given_rows), metric=metric, precision=precision, block=3, front=5)
    picks, radius = reference(X, k, metric, [min(given_rows)], among=given_rows)
    assert found.indices.tolist() == picks
    np.testing.assert_array_equal(found.radius, radius)


@settings(max_examples=40)
@given(
    n=st.integers(1, 50),
    m=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    precision=st.sampled_from(PRECISIONS),
    data=st.data(),
)
def test_given_vectors_are_centres_but_not_picks(n, m, seed, kind, metric, precision, data):
    X = clustered(n, 5, seed, kind)
    vectors = clustered(m, 5, seed + 1, data.draw(st.sampled_from(("random", "grid"))))
    k = data.draw(st.integers(1, n))
    found = kcenter(X, k, init=vectors, metric=metric, precision=precision, block=3, front=5)
    picks, radius = reference(X, k, metric, [], vectors=vectors)
    assert found.indices.tolist() == picks
    np.testing.assert_array_equal(found.radius, radius)
    assert (np.diff(found.radius) <= 0).all()


def saved(state: State, path: Path) -> State:
    np.savez(path, **state)
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    centres=st.sampled_from(("start", "rows", "vectors")),
    precision=st.sampled_from(PRECISIONS),
)
def test_a_killed_traversal_continues_to_the_same_sequence(
    tmp_path_factory, seed, kind, metric, centres, precision
):
    X = clustered(60, 5, seed, kind)
    init = {"start": None, "rows": np.array([5, 50, 17]), "vectors": clustered(4, 5, seed + 1, "random")}[
        centres
    ]
    states: list[State] = []
    options = {"init": init, "metric": metric, "block": 4, "front": 9, "precision": precision}
    whole = kcenter(X, 50, on_state=states.append, state_every=1, **options)
    path = tmp_path_factory.mktemp("state") / "state.npz"
    for state in states[:: max(len(states) // 2, 1)]:
        for kept in (state, {"indices": state["indices"]}):
            again = kcenter(X, 50, resume=saved(kept, path), **options)
            np.testing.assert_array_equal(again.indices, whole.indices)
            np.testing.assert_array_equal(again.radius, whole.radius)


def centres_for(kind: str, X: Matrix, seed: int, data: st.DataObject) -> dict[str, object]:
    """Draw what a traversal begins with: a start, given rows, or given vectors."""
    if kind == "vectors":
        return {"init": clustered(data.draw(st.integers(1, 4)), X.shape[1], seed + 1, "random")}
    start = data.draw(st.sampled_from((0, len(X) - 1, "central", "random")))
    if kind == "start":
        return {"start": start, "seed": seed}
    rows = st.lists(st.integers(0, len(X) - 1), min_size=1, unique=True)
    return {"init": np.array(data.draw(rows)), "start": start, "seed": seed}


def assert_same_traversal(found: KCenter, fresh: KCenter) -> None:
    assert found.indices.tolist() == fresh.indices.tolist()
    np.testing.assert_array_equal(found.radius, fresh.radius)


PARTS = {
    "indices": ("indices",),
    "radius": ("indices", "radius"),
    "whole": ("indices", "radius", "bound", "seen", "shape", "given", "metric"),
}


@settings(max_examples=100)
@given(
    n=st.integers(2, 24),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    centres=st.sampled_from(("start", "rows", "vectors")),
    stops=st.booleans(),
    part=st.sampled_from(tuple(PARTS)),
    data=st.data(),
)
def test_resumed_at_every_length_it_is_the_undisturbed_traversal(
    n, seed, kind, metric, centres, stops, part, data
):
    X = clustered(n, 4, seed, kind)
    options = {"metric": metric, "block": 3, "front": 5, "precision": "f32"}
    options |= centres_for(centres, X, seed, data)
    whole = kcenter(X, n, **options)
    stop = float(data.draw(st.sampled_from(sorted(set(whole.radius.tolist()))))) if stops else None
    fresh = kcenter(X, n, stop_at_radius=stop, **options)
    for length in range(1, n + 1):
        state = kcenter(X, length, **options).state
        resume = {name: state[name] for name in PARTS[part]}
        assert_same_traversal(kcenter(X, n, stop_at_radius=stop, resume=resume, **options), fresh)


@settings(max_examples=100)
@given(
    n=st.integers(2, 40),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    centres=st.sampled_from(("start", "rows", "vectors")),
    data=st.data(),
)
def test_a_chain_of_budgets_in_any_order_gives_each_the_undisturbed_traversal(
    n, seed, kind, metric, centres, data
):
    X = clustered(n, 4, seed, kind)
    options = {"metric": metric, "block": 3, "front": 5, "precision": "f32"}
    options |= centres_for(centres, X, seed, data)
    stops = st.sampled_from((None, *kcenter(X, n, **options).radius.tolist()))
    resume = None
    for _ in range(data.draw(st.integers(2, 5))):
        length, stop = data.draw(st.integers(1, n)), data.draw(stops)
        found = kcenter(X, length, stop_at_radius=stop, resume=resume, **options)
        assert_same_traversal(found, kcenter(X, length, stop_at_radius=stop, **options))
        part = data.draw(st.sampled_from(tuple(PARTS)))
        resume = {name: found.state[name] for name in PARTS[part]}


def test_a_budget_below_the_given_rows_leaves_none_of_them_out():
    X, given_rows = clustered(300, 8, 0, "random"), np.arange(0, 300, 15)
    short = kcenter(X, 10, init=given_rows)
    for resume in ({"indices": short.indices}, short.state):
        found = kcenter(X, 40, init=given_rows, resume=resume)
        assert set(found.indices[:20].tolist()) == set(given_rows.tolist())
        assert_same_traversal(found, kcenter(X, 40, init=given_rows))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_finished_traversal_is_lengthened_and_shortened(metric):
    X = clustered(300, 8, 3, "clustered")
    whole = kcenter(X, 300, metric=metric)
    short = kcenter(X, 40, metric=metric, block=8)
    for state in (
        short.state,
        {"indices": short.indices},
        {"indices": short.indices, "radius": short.radius},
    ):
        longer = kcenter(X, 300, metric=metric, resume=state)
        np.testing.assert_array_equal(longer.indices, whole.indices)
        np.testing.assert_array_equal(longer.radius, whole.radius)
    cut = kcenter(X, 10, metric=metric, resume=short.state)
    np.testing.assert_array_equal(cut.indices, whole.indices[:10])
    np.testing.assert_array_equal(kcenter(X, 300, metric=metric, resume=cut.state).indices, whole.indices)


def test_a_lengthened_traversal_evaluates_only_what_is_new():
    X = clustered(3000, 16, 0, "random")
    short = kcenter(X, 1000)
    longer = kcenter(X, 1010, resume=short.state)
    assert longer.counters.evaluations < short.counters.evaluations / 2


@pytest.mark.parametrize("change", ["rows", "metric", "start", "given", "bounds", "twice", "range"])
def test_a_foreign_state_is_refused_with_a_sentence(change):
    X = clustered(30, 4, 0, "random")
    state = kcenter(X, 5).state
    options = {"resume": state}
    if change == "rows":
        X = X[:-1]
    if change == "metric":
        options["metric"] = "euclidean"
    if change == "start":
        options["start"] = 3
    if change == "given":
        options["init"] = X[:2]
    if change == "bounds":
        options["resume"] = {"indices": state["indices"], "bound": state["bound"][1:], "seen": state["seen"]}
    if change == "twice":
        options["resume"] = {"indices": np.array([0, 1, 1])}
    if change == "range":
        options["resume"] = {"indices": np.array([0, 31])}
    with pytest.raises(ValueError, match=r"\.$"):
        kcenter(X, 10, **options)


def test_a_foreign_state_is_refused_where_it_differs():
    X = np.arange(30, dtype=np.float32)[:, None]
    foreign = {"indices": np.array([0, 29, 14, 3])}  # of starting rows 0, 3, 14 and 29
    with pytest.raises(ValueError, match="row 14 as its pick number 3, this traversal row 15"):
        kcenter(X, 10, metric="euclidean", init=np.array([0, 4, 15, 29]), resume=foreign)


def test_points_on_a_line_by_hand():
    X = np.array([[0.0], [1.0], [10.0], [4.0], [5.0]], np.float32)
    found = kcenter(X, 5, metric="euclidean", nearest=True)
    assert found.indices.tolist() == [
        0,
        2,
        4,
        1,
        3,
    ]  # 4 and 5 are 5 and 4 from {0, 10}; then 1 and 4 tie at 1
    assert found.radius.tolist() == [np.inf, 10.0, 5.0, 1.0, 1.0]
    two = kcenter(X, 2, metric="euclidean", nearest=True)
    assert two.nearest is not None
    assert two.nearest.tolist() == [0, 0, 1, 0, 0]  # 5 is as far from 0 as from 10: the first centre wins
    assert two.distance is not None
    assert two.distance.tolist() == [0.0, 1.0, 0.0, 4.0, 5.0]


def test_cosine_by_hand():
    X = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]], np.float32)
    found = kcenter(X, 4)
    assert found.indices.tolist() == [0, 3, 1, 2]
    np.testing.assert_allclose(found.radius, [np.inf, 2.0, 1.0, 1 - 0.5**0.5], rtol=1e-15)


def test_rows_of_zeros_stand_at_right_angles_to_all_others():
    X = np.array([[0, 0], [1, 0], [0, 0], [-1, 0], [2, 0]], np.float32)
    for precision in PRECISIONS:
        found = kcenter(X, 5, start=1, precision=precision)
        assert found.indices.tolist() == [1, 3, 0, 2, 4]
        assert found.radius.tolist() == [np.inf, 2.0, 1.0, 0.0, 0.0]
    assert kcenter(np.zeros((3, 4), np.float32), 3).radius.tolist() == [np.inf, 0.0, 0.0]
    assert kcenter(np.zeros((3, 4), np.float32), 3, metric="euclidean").indices.tolist() == [0, 1, 2]
    assert kcenter(X, 2, init=np.zeros((1, 2), np.float32)).radius.tolist() == [1.0, 1.0]


def test_duplicates_come_after_everything_else():
    X = clustered(40, 7, 1, "random")
    X = np.concatenate([X, X, X])
    found = kcenter(X, 120)
    assert (found.indices[:40] < 40).all()
    assert found.indices[40:].tolist() == list(range(40, 120))
    assert (found.radius[40:] == 0).all()
    assert (found.radius[:40] > 0).all()


def test_one_row():
    found = kcenter(np.ones((1, 3), np.float32), 1, nearest=True)
    assert found.indices.tolist() == [0]
    assert found.radius.tolist() == [np.inf]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k is 0, but there are 6 rows"),
        ({"k": 7}, "k is 7, but there are 6 rows"),
        ({"metric": "dot"}, "known are 'cosine' and 'euclidean'"),
        ({"precision": "int4"}, "known are 'auto', 'bf16' and 'f32'"),
        ({"start": 6}, "names row 6; there are 6 rows"),
        ({"start": -1}, "names row -1"),
        ({"init": np.array([1, 1])}, "names a row twice"),
        ({"init": np.array([0.5, 1.0])}, "list of row numbers"),
        ({"init": np.ones((2, 3), np.float32)}, "vectors of 3 numbers, the rows have 2"),
        ({"init": np.array([[0.0, np.nan]])}, "Given centre 0 holds NaN"),
        ({"block": 0}, "block is 0"),
    ],
)
def test_impossible_settings_are_refused_with_a_sentence(options, sentence):
    X = np.arange(12, dtype=np.float32).reshape(6, 2)
    with pytest.raises(ValueError, match=sentence):
        kcenter(X, **{"k": 2, **options})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_that_are_not_finite_are_refused_naming_the_first(bad, metric):
    X = clustered(20, 3, 0, "random")
    X[11, 2] = X[17, 0] = bad
    with pytest.raises(ValueError, match=r"Row 11 holds NaN or infinity \(2 of 20 do\)"):
        kcenter(X, 3, metric=metric)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_what_is_no_matrix_of_rows_is_refused(shape):
    with pytest.raises(ValueError, match="has to be a matrix"):
        kcenter(np.zeros(shape, np.float32), 1)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS), metric=st.sampled_from(("cosine", "euclidean"))
)
def test_stopping_at_a_radius_covers_every_row(seed, kind, metric):
    X = clustered(40, 4, seed, kind)
    whole = kcenter(X, 40, metric=metric)
    stop = float(np.random.default_rng(seed).choice(whole.radius[1:]))
    found = kcenter(X, metric=metric, stop_at_radius=stop, block=5, front=7)
    length = 1 + int(np.flatnonzero(whole.radius[1:] <= stop)[0])
    np.testing.assert_array_equal(found.indices, whole.indices[:length])
    assert coverage(X, found.indices, metric)[0] <= stop
    for resumed in (found.state, whole.state):
        again = kcenter(X, metric=metric, stop_at_radius=stop, resume=resumed)
        np.testing.assert_array_equal(again.indices, found.indices)
    np.testing.assert_array_equal(kcenter(X, 40, metric=metric, resume=found.state).indices, whole.indices)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 3), metric=st.sampled_from(("cosine", "euclidean")))
def test_the_radius_is_at_most_twice_the_best_possible_and_never_increases(seed, k, metric):
    X = clustered(9, 2, seed, "random")
    if metric == "cosine":  # the factor holds for a metric: the distance of unit vectors, not its square
        X /= np.linalg.norm(X, axis=1, keepdims=True)
    distance = np.linalg.norm(X[:, None].astype(float) - X[None], axis=2)
    best = min(distance[:, list(c)].min(axis=1).max() for c in itertools.combinations(range(9), k))
    found = kcenter(X, 9, metric=metric)
    radius = np.sqrt(2 * found.radius) if metric == "cosine" else found.radius
    assert radius[k] <= 2 * best * (1 + 1e-6)
    assert (np.diff(found.radius) <= 0).all()


@settings(max_examples=40)
@given(
    n=st.integers(1, 200),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    precision=st.sampled_from(PRECISIONS),
)
def test_nearest_centres_and_coverage_are_exact(n, seed, kind, metric, precision):
    X = clustered(n, 5, seed, kind)
    k = 1 + seed % n
    with small_batches():
        found = kcenter(X, k, metric=metric, precision=precision, nearest=True)
    scale = scales(X, metric)
    value = np.array([[pairs.pair(X[i], scale[i], X[c], scale[c]) for c in found.indices] for i in range(n)])
    distance = value / 2 if metric == "cosine" else np.sqrt(value)
    np.testing.assert_array_equal(found.nearest, value.argmin(axis=1))
    np.testing.assert_array_equal(found.distance, distance.min(axis=1))
    radius, mean = coverage(X, found.indices, metric, precision=precision)
    assert radius == distance.min(axis=1).max()
    assert mean == pytest.approx(distance.min(axis=1).mean(), rel=1e-14)


def test_nearest_names_given_vectors_by_negative_numbers():
    X = np.array([[0.0], [1.0], [9.0], [10.0]], np.float32)
    found = kcenter(X, 1, init=np.array([[0.0], [5.0]]), metric="euclidean", nearest=True)
    assert found.indices.tolist() == [3]
    assert found.nearest is not None
    assert found.nearest.tolist() == [-1, -1, 0, 0]


@settings(max_examples=40)
@given(
    n=st.integers(2, 80),
    d=st.integers(1, 70),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(("cosine", "euclidean")),
    precision=st.sampled_from(PRECISIONS),
)
def test_no_score_is_wrong_by_more_than_its_margin(n, d, seed, kind, metric, precision):
    X = checked(clustered(n, d, seed, kind))
    with exact_products(None):
        space = Space(X, metric, precision=precision)
        centres = Centres(space, n)
        for c in range(n):
            centres.count = 0
            centres.add(np.array([c]))
            score = space.best_scores(np.arange(n), centres, 0).astype(float)
            exact = [pairs.pair(X[i], space.scale[i], X[c], space.scale[c]) for i in range(n)]
            assert (np.abs((space.square - exact) / 2 - score) <= space.margin).all()


@pytest.mark.parametrize("d", [1, 3, 5, 11, 37])
def test_the_margin_holds_where_every_rounding_goes_the_same_way(d):
    worst = 0.0
    with exact_products(None):
        for v in np.linspace(0.5, 0.53, 40):
            space = Space(checked(np.full((1, d), v, np.float32)), "euclidean", precision="bf16")
            centres = Centres(space, 1)
            centres.add(np.array([0]))
            error = abs(float(space.best_scores(np.array([0]), centres, 0)[0]) - space.square[0] / 2)
            worst = max(worst, error / space.margin[0])
    assert 0.3 < worst <= 1  # such rows do come near the bound


def test_the_bf16_margin_is_tight_enough_to_filter():
    X = checked(clustered(50, 384, 0, "random"))
    assert Space(X, "cosine", precision="bf16").margin.max() < 0.009
    assert Space(X, "cosine", precision="f32").margin.max() < 3e-4


def test_settings_of_torch_neither_matter_nor_change():
    X = clustered(300, 64, 0, "clustered")
    expected = kcenter(X, 200, precision="f32", threads=2).indices
    threads = torch.get_num_threads()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        found = kcenter(X, 200, precision="f32", threads=1).indices
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        space = Space(checked(X), "cosine", precision="f32")
        with exact_products(1):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
            assert torch.get_num_threads() == 1
            rows = space.take(np.arange(300))
            products = space.multiply(rows, rows).double()
        assert (products - rows.double() @ rows.double().T).abs().max() < 1e-5
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
    np.testing.assert_array_equal(found, expected)
    assert torch.get_num_threads() == threads


def test_the_probe_answers_alike_every_time():
    answers = set()
    for _ in range(5):
        bf16_pays.cache_clear()
        answers.add(bf16_pays("cpu"))
    assert len(answers) == 1


def test_a_memory_map_is_read_and_the_input_left_alone(tmp_path):
    X = clustered(500, 12, 0, "random")
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    before = X.copy()
    np.testing.assert_array_equal(kcenter(mapped, 100).indices, kcenter(X, 100).indices)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(
        kcenter(X.astype(np.float64), 100).indices, kcenter(np.asfortranarray(X), 100).indices
    )


def test_the_central_start_is_the_row_nearest_the_mean():
    X = np.array([[0.0], [10.0], [4.0], [5.0]], np.float32)  # the mean is 4.75
    assert kcenter(X, 1, start="central", metric="euclidean").indices.tolist() == [3]
    rows = clustered(9000, 3, 0, "random")
    unit = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    nearest = np.linalg.norm(unit - unit.mean(axis=0), axis=1).argmin()
    assert kcenter(rows, 1, start="central").indices.tolist() == [nearest]


def test_a_random_start_is_drawn_by_the_seed():
    X = clustered(1000, 3, 0, "random")
    first = [kcenter(X, 1, start="random", seed=seed).indices[0] for seed in (0, 0, 1, 2)]
    assert first[0] == first[1]
    assert len(set(first)) > 1


def test_progress_counts_up_to_the_end():
    seen: list[Status] = []
    found = kcenter(clustered(400, 8, 0, "random"), 300, progress=seen.append, block=16)
    assert seen[-1].picks == 300
    assert seen[-1].evaluations == found.counters.evaluations
    assert seen[-1].radius == found.radius[-1]
    assert all(a.picks <= b.picks and a.evaluations < b.evaluations for a, b in itertools.pairwise(seen))
    assert seen[-1].rate > 0
    assert found.counters.rounds == len(seen)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_real_rows_give_the_plain_sequence_in_far_fewer_rounds(test_data, metric):
    path = test_data / "embeddings" / "instructions_52k_minilm_f16.npy"
    X = np.load(path, mmap_mode="r")[:900].astype(np.float32)
    if metric == "euclidean":
        X *= np.random.default_rng(0).uniform(0.5, 2, size=(len(X), 1)).astype(np.float32)
    first = kcenter(X, 300, metric=metric, precision="bf16", block=512)
    second = kcenter(X, 300, metric=metric, precision="f32", block=7)
    scale = scales(X, metric)
    value, picks = np.full(len(X), np.inf), [0]
    while True:
        new = [pairs.pair(X[i], scale[i], X[picks[-1]], scale[picks[-1]]) for i in range(len(X))]
        value = np.minimum(value, new)
        value[picks] = -1
        if len(picks) == 300:
            break
        picks.append(int(value.argmax()))
    assert first.indices.tolist() == second.indices.tolist() == picks
    assert first.counters.rounds < 40


def test_machine_code_that_cannot_be_kept_is_compiled_anew(monkeypatch):
    def refuse(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda routine: routine

    monkeypatch.setattr(pairs, "njit", refuse)
    assert pairs.compiled()(len)([1, 2]) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cuda_device_gives_the_same_sequence(metric, precision):
    X = clustered(5000, 96, 0, "clustered")
    expected = kcenter(X, 1000, metric=metric, device="cpu", nearest=True)
    found = kcenter(X, 1000, metric=metric, device="cuda", precision=precision, nearest=True)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.radius, expected.radius)
    np.testing.assert_array_equal(found.nearest, expected.nearest)
