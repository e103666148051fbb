from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.embed.sentences import Embedding
from dfilter.errors import SettingsError
from dfilter.filters.duplicates import Duplicates
from dfilter.pool import Pool
from dfilter.sample import faults_kept, generate
from dfilter.types import Scores


@dataclass(frozen=True)
class Angles:
    """A vector at the angle, in degrees, with which a response begins."""

    def spec(self) -> Mapping[str, str]:
        return {"name": "angles"}

    def compute(self, rows: Sequence) -> np.ndarray:
        angles = np.radians([float(row.response.split()[0]) for row in rows])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rows_of(*responses: str) -> Dataset:
    lines = [{"instruction": "Ask", "output": text} for text in responses]
    return Dataset.from_rows(lines)


# cos 10 = 0.985, cos 20 = 0.940: at 0.95 rows 10 degrees apart are near, rows 20 degrees apart are not.
CHAIN = rows_of("0 a", "10 bbb", "20 cc", "90 d", "0 a", "95 e")


def test_a_row_leaves_only_when_near_to_one_that_stays() -> None:
    scores = Duplicates(embedding=Angles()).score(Pool(CHAIN))
    # 10 is near 0; 20 is near 10, which left, and not near 0: it stays.
    assert np.isnan(scores.values).tolist() == [False, True, False, False, True, True]
    assert list(scores.reasons) == [
        "repeats no row that stays",
        "near duplicate of '0' (cosine 0.985)",
        "repeats no row that stays",
        "repeats no row that stays",
        "says the same as '0'",
        "near duplicate of '3' (cosine 0.996)",
    ]
    assert scores.facts == {"exact_duplicates": 1, "near_duplicates": 2}


def test_the_longest_of_like_rows_stays() -> None:
    scores = Duplicates(prefer="longest", embedding=Angles()).score(Pool(CHAIN))
    # 10 has the longest response and takes 0 and 20 with it.
    assert np.isnan(scores.values).tolist() == [True, False, True, False, True, True]
    assert scores.values[1] == len("10 bbb")


def test_the_scores_of_the_step_before_decide_and_are_passed_on() -> None:
    prior = Scores(np.array([1.0, 2, 3, -4, 1, -3]))
    scores = Duplicates(prefer="prior", embedding=Angles()).score(Pool(CHAIN, prior=prior))
    # 20 is the best and takes 10 along, but not 0; of 90 and 95 the second was better.
    assert np.isnan(scores.values).tolist() == [False, True, False, True, True, False]
    assert scores.values[[0, 2, 5]].tolist() == [1, 3, -3]
    with pytest.raises(SettingsError, match="needs a step before"):
        Duplicates(prefer="prior").score(Pool(CHAIN))


def test_rows_without_a_prior_score_take_nobody_with_them() -> None:
    prior = Scores(np.array([np.nan, 2, 1, np.nan, 5, 0]))
    scores = Duplicates(prefer="prior", embedding=Angles()).score(Pool(CHAIN, prior=prior))
    assert scores.reasons[0] == scores.reasons[3] == "had no score"
    assert np.isnan(scores.values).tolist() == [True, True, False, True, False, False]


def test_only_exact_duplicates_need_no_embedding() -> None:
    scores = Duplicates(near=False).score(Pool(CHAIN))
    assert np.isnan(scores.values).tolist() == [False, False, False, False, True, False]
    assert Duplicates(near=False).deterministic


def test_preferring_the_longest_does_not_depend_on_the_order_of_the_rows() -> None:
    made = Duplicates(prefer="longest", embedding=Angles())
    order = np.array([5, 1, 4, 0, 3, 2])
    straight, shuffled = made.score(Pool(CHAIN)).values, made.score(Pool(CHAIN.take(order))).values
    assert np.array_equal(straight[order], shuffled, equal_nan=True)
    assert made.equivariant
    assert not Duplicates().equivariant


def test_pairs_across_clusters_are_not_looked_for() -> None:
    rows = rows_of("0 a", "1 b", "180 c", "181 d")
    both = Duplicates(embedding=Angles(), clusters=2).score(Pool(rows))
    assert np.isnan(both.values).tolist() == [False, True, False, True]
    apart = Duplicates(embedding=Angles(), clusters=4).score(Pool(rows))
    assert not np.isnan(apart.values).any()


def test_neighbouring_clusters_are_looked_at_when_asked_to() -> None:
    rows = rows_of("0 a", "1 b", "180 c", "181 d")
    joined = Duplicates(embedding=Angles(), clusters=4, neighbours=3).score(Pool(rows))
    assert np.isnan(joined.values).tolist() == [False, True, False, True]


@given(st.lists(st.integers(0, 359), min_size=1, max_size=40), st.sampled_from([0.3, 0.9, 0.99]))
@settings(max_examples=25)
def test_what_stays_is_what_the_plain_walk_keeps(angles: list[int], threshold: float) -> None:
    rows = rows_of(*[f"{angle} {place}" for place, angle in enumerate(angles)])
    kept: list[int] = []
    for place, angle in enumerate(angles):
        if not any(np.cos(np.radians(angle - angles[k])) > threshold + 1e-5 for k in kept):
            kept.append(place)
    values = Duplicates(threshold=threshold, embedding=Angles()).score(Pool(rows)).values
    assert np.flatnonzero(~np.isnan(values)).tolist() == kept


def test_settings_out_of_range_are_refused_together() -> None:
    with pytest.raises(SettingsError) as error:
        Duplicates(threshold=1.5, clusters=-1, neighbours=-1)
    assert len(error.value.findings) == 3


def test_every_planted_exact_duplicate_is_found() -> None:
    sample = generate(400, seed=3)
    rows = Dataset.from_rows(sample.pool)
    values = Duplicates(near=False).score(Pool(rows)).values
    kept = [rows.ids[i] for i in np.flatnonzero(~np.isnan(values))]
    entries = {entry.fault: entry for entry in faults_kept(sample.truth, kept)}
    assert entries["duplicate"].kept == 0
    assert len(kept) == 400 - entries["duplicate"].pool


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, encoders: ModuleType) -> str:
    """An encoder of whole words that reads 24 tokens, two of them special ones."""
    return str(encoders.write_bert(tmp_path_factory.mktemp("narrow"), positions=24))


SHARED = "the sum of two numbers is written as one more than a list sorted by length " * 2
QUESTIONS = ["is one more", "two numbers", "by length", "a list", "written as the sum"]


def conversation(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def framed(where: str, asked: str, answer: str) -> dict[str, object]:
    """A row with 32 shared words in its system turn, before or behind its question, or in earlier turns."""
    return {
        "system": conversation(("system", SHARED), ("user", asked), ("assistant", answer)),
        "before": conversation(("user", SHARED + asked), ("assistant", answer)),
        "behind": conversation(("user", f"{asked} {SHARED}"), ("assistant", answer)),
        "earlier": conversation(
            ("user", SHARED), ("assistant", "one"), ("user", asked), ("assistant", answer)
        ),
    }[where]


@pytest.mark.parametrize("long", ["turns", "chunks", "tail", "cut"])
@pytest.mark.parametrize("where", ["system", "before", "behind", "earlier"])
def test_rows_that_share_a_long_text_are_no_duplicates(encoder: str, where: str, long: str) -> None:
    rows = [framed(where, asked, answer) for asked in QUESTIONS for answer in ("one", "two")]
    again = framed(where, QUESTIONS[0], "one ")  # the same words
    embedding = Embedding(model=encoder, system=where == "system", long=long)  # type: ignore[arg-type]
    scores = Duplicates(embedding=embedding, threshold=0.5).score(Pool(Dataset.from_rows([*rows, again])))
    assert np.flatnonzero(np.isnan(scores.values)).tolist() == [len(rows)]
    assert scores.reasons is not None
    assert scores.reasons[-1].startswith("near duplicate of '0'")
    if long == "cut" and where in ("system", "before"):  # nothing else of the rows was seen
        assert scores.facts["told_apart_by_their_texts"] == len(rows) - 1


def test_a_system_turn_that_is_not_embedded_tells_rows_apart(encoder: str) -> None:
    says = [("sorted by length", "one"), ("sorted by length", "one "), ("as the sum", "one"), ("", "one")]
    turns = [(("system", system), ("user", "a list"), ("assistant", answer)) for system, answer in says]
    rows = Dataset.from_rows([conversation(*(turn for turn in row if turn[1])) for row in turns])
    scores = Duplicates(embedding=Embedding(model=encoder)).score(Pool(rows))
    assert np.isnan(scores.values).tolist() == [False, True, False, False]
    by_system = Duplicates(embedding=Embedding(model=encoder, text="prompt")).score(Pool(rows))
    assert np.isnan(by_system.values).tolist() == [False, True, False, False]


def test_what_a_vector_does_not_tell_tells_rows_apart(encoder: str) -> None:
    row = conversation(("user", "a list"), ("assistant", "one"))
    tide, wave = ([{"name": name, "parameters": {}}] for name in ("tide", "wave"))
    strange = [conversation(("user", f"is {sign} by length"), ("assistant", "two")) for sign in "😀😭😀"]
    strange[2] = conversation(("user", "is 😀  by length"), ("assistant", "two"))
    signs = [conversation(("user", f"{SHARED} 7 {o} 3."), ("assistant", "two")) for o in "+-"]
    again = conversation(("user", "a list"), ("assistant", "one "))
    tools = [row | {"tools": tide}, row | {"tools": wave}, row, again | {"tools": tide}]
    rows = Dataset.from_rows([*tools, *strange, *signs])
    scores = Duplicates(embedding=Embedding(model=encoder)).score(Pool(rows))
    assert [at for at, value in enumerate(scores.values) if np.isnan(value)] == [3, 6]


def test_a_piece_that_differs_more_than_the_whole_keeps_its_row(encoder: str) -> None:
    words = (SHARED * 9).split()
    other = [*words[:140], "query", *words[141:]]
    rows = Dataset.from_rows([{"instruction": "a list", "output": " ".join(text)} for text in (words, other)])
    embedding = Embedding(model=encoder)
    one, two = Pool(rows).signal(embedding)
    near = float(one @ two) - 1e-5
    kept = Duplicates(embedding=embedding, threshold=near).score(Pool(rows))
    assert not np.isnan(kept.values).any()
    assert kept.facts["told_apart_by_their_texts"] == 1
    scores = Duplicates(embedding=embedding, threshold=0.5).score(Pool(rows))
    assert np.isnan(scores.values).tolist() == [False, True]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 6)), min_size=2, max_size=12))
@settings(max_examples=10)
def test_no_row_is_dropped_of_which_a_piece_differs(encoder: str, made: list[tuple[int, int, int]]) -> None:
    words = (SHARED * 2).split()

    def said(kind: int, edits: int) -> str:
        found = words[: 20 + 40 * kind]
        for at in range(edits):
            found[at * 9 % len(found)] = "query"
        return " ".join(found)

    lines = [{"instruction": said(kind, a), "output": said(1, b)} for kind, a, b in made]
    rows = Dataset.from_rows(lines)
    embedding = Embedding(model=encoder)
    scores = Duplicates(embedding=embedding).score(Pool(rows))
    of = {row_id: at for at, row_id in enumerate(rows.ids)}
    assert scores.reasons is not None
    for at in np.flatnonzero(np.isnan(scores.values)).tolist():
        one, other = rows[at], rows[of[scores.reasons[at].split("'")[1]]]
        for mine, theirs in ((one.prompt, other.prompt), (one.response, other.response)):
            a, b = mine.split(), theirs.split()
            assert len(a) == len(b)
            changed = np.array([x != y for x, y in zip(a, b, strict=True)])
            assert all(changed[start : start + 8].sum() <= 1 for start in range(len(changed)))
