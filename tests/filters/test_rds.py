from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.chat import render_many
from dfilter.data.dataset import Dataset
from dfilter.embed.causal import load
from dfilter.embed.device import place
from dfilter.embed.hidden import HiddenState
from dfilter.errors import InputError, SettingsError
from dfilter.filters.rds import RDS, RDSPlus, _picks, _ranked
from dfilter.pool import Pool, Store
from dfilter.types import Example, Message


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _shared_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(home))


def rows(count: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    words = ["list", "the", "answer", "is", "two", "small", "house", "man", "write", "word"]

    def say() -> str:
        return " ".join(rng.choice(words, size=rng.integers(2, 15)))

    return [
        Example(str(i), (Message("user", f"{say()} {i}"), Message("assistant", say())), {})
        for i in range(count)
    ]


def pool_of(count: int, tasks: list[str], store: Path, **changes: Any) -> Pool:
    aim = [
        {"prompt": row.prompt, "response": row.response, "task": task}
        for row, task in zip(rows(len(tasks), 9), tasks, strict=True)
    ]
    place = Store(store)
    return Pool(
        Dataset.from_rows(rows(count)),
        target=Pool(Dataset.from_rows(aim), store=place),
        store=place,
        **changes,
    )


def signal(pooling: str, **changes: Any) -> HiddenState:
    return HiddenState("tiny", pooling, dtype="float32", device="cpu", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["weighted", "last"])
def test_pooling_is_a_loop_over_positions(pooling: str) -> None:
    import torch

    some = rows(6)
    found = signal(pooling).compute(some)
    causal = load("tiny", place("cpu", "float32"))
    for row, vector in zip(render_many(some, causal.tokenizer), found, strict=True):
        with torch.no_grad():
            output = causal.model(input_ids=torch.tensor([row.input_ids]), output_hidden_states=True)
        states = output.hidden_states[-1][0].double().numpy()
        t = len(states)
        wanted = (
            states[-1]
            if pooling == "last"
            else sum((i + 1) / (t * (t + 1) / 2) * s for i, s in enumerate(states))
        )
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_hidden_states_do_not_depend_on_company_and_specs_tell_settings_apart() -> None:
    some = rows(8)
    together = signal("weighted").compute(some)
    apart = np.concatenate([signal("weighted").compute(some[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(apart, together, atol=1e-5)
    specs = [
        signal("weighted"),
        signal("last"),
        signal("last", max_tokens=5),
        signal("last", template="alpaca"),
    ]
    assert len({str(s.spec()) for s in specs}) == 4
    assert signal("weighted").compute([]).shape == (0, 64)


def test_rds_is_the_mean_cosine_to_the_nearest_subtask(tmp_path: Path) -> None:
    pool = pool_of(10, ["a", "b", "a"], tmp_path)
    assert pool.target is not None
    scores = RDS("tiny", target_by="task", dtype="float32").score(pool)
    cosines = signal("last").compute(list(pool.rows)) @ signal("last").compute(list(pool.target.rows)).T
    subtask = np.stack([cosines[:, [0, 2]].mean(1), cosines[:, 1]], 1)
    np.testing.assert_allclose(scores.values, subtask.max(1), atol=1e-6)
    assert scores.groups is not None
    assert scores.groups.tolist() == subtask.argmax(1).tolist()


def slow_order(cosines: Any, tasks: list[int], within: str) -> list[int]:
    """Take turns by looking at everything again for every pick."""
    names = sorted(set(tasks))
    turn = dict.fromkeys(names, 0)
    picked: list[int] = []
    while len(picked) < cosines.shape[1]:
        for name in names:
            queries = [q for q, task in enumerate(tasks) if task == name]
            if within == "max":
                row = cosines[queries].max(0)
            else:
                row = cosines[queries[turn[name] % len(queries)]]
                turn[name] += 1
            free = [i for i in range(cosines.shape[1]) if i not in picked]
            if free:
                picked.append(max(free, key=lambda i, row=row: row[i]))
    return picked


@settings(max_examples=40)
@given(
    st.integers(1, 25), st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 999), st.data()
)
def test_turns_equal_a_loop_that_looks_at_everything_again(
    count: int, tasks: list[int], seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = rng.normal(size=(count, 7)), rng.normal(size=(len(tasks), 7))
    wanted = data.draw(st.integers(1, count))
    for within in ("turns", "max"):
        lists = [
            _ranked(ours, theirs[np.array(tasks) == t], np.arange(count), wanted, largest=within == "max")
            for t in sorted(set(tasks))
        ]
        found = [row for row, _ in _picks(lists, wanted)]
        assert found == slow_order(theirs @ ours.T, tasks, within)[:wanted]


def test_rows_at_equal_distance_follow_in_content_order() -> None:
    ours = np.ones((4, 1))
    places = np.array([3, 0, 2, 1])
    (found,) = _ranked(ours, np.ones((1, 1)), places, 3, largest=False)
    assert found.tolist() == [1, 3, 2]


def test_a_smaller_budget_is_a_prefix(tmp_path: Path) -> None:
    plus = RDSPlus("tiny", target_by="task", dtype="float32")
    whole = plus.score(pool_of(15, ["a", "b", "a"], tmp_path))
    part = plus.score(pool_of(15, ["a", "b", "a"], tmp_path, wanted=6))
    assert sorted(whole.values.tolist()) == [float(-rank) for rank in range(14, -1, -1)]
    reached = ~np.isnan(part.values)
    assert reached.sum() == 6
    np.testing.assert_array_equal(part.values[reached], whole.values[reached])
    assert (whole.values[~reached] <= -6).all()
    assert part.reasons is not None
    assert part.reasons[int(np.flatnonzero(~reached)[0])] == "not reached"


def test_target_and_settings_are_checked(tmp_path: Path) -> None:
    pool = pool_of(3, ["a"], tmp_path)
    for made in (RDS("tiny"), RDSPlus("tiny")):
        with pytest.raises(InputError, match="--target FILE"):
            made.score(Pool(pool.rows, store=pool.store))
    with pytest.raises(SettingsError, match="neither turns nor max"):
        RDSPlus(within="best")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="max_tokens = 0"):
        RDS(max_tokens=0)
