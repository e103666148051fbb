"""Which turns of a conversation filters look at."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter import chat, models, select
from dfilter.data.dataset import Dataset
from dfilter.embed.losses import ResponseLoss, both
from dfilter.errors import SettingsError
from dfilter.filters.ifd import IFD
from dfilter.filters.judge import Judge
from dfilter.filters.length import Longest, Tokens
from dfilter.filters.lima import LIMA
from dfilter.llm import templates
from dfilter.llm.judge import Judge as Model
from dfilter.llm.verdicts import Judged
from dfilter.looked_at import Views, over_turns, pooled
from dfilter.pool import Pool
from dfilter.types import Scores, pooled_key


def row(name, *replies, **marks):
    turns = []
    for at, text in enumerate(replies):
        turns += [{"role": "user", "content": f"Q{at}"}, {"role": "assistant", "content": text}]
    for at, weight in marks.get("weights", {}).items():
        turns[2 * at + 1]["weight"] = weight
    return {"id": name, "messages": [*turns, *marks.get("more", [])]}


ROWS = [
    row("two", "one two three", "four"),
    row("one", "a b"),
    row("masked", "long long long long long", "x y z", weights={0: 0}),
    row("open", "p q", "r s t u", "v", more=[{"role": "user", "content": "Thanks"}]),
]
BY_HAND = {  # words
    "all": [4, 2, 3, 7],
    "last": [1, 2, 3, 1],
    "mean": [2, 2, 3, 7 / 3],
    "min": [1, 2, 3, 1],
}


@pytest.fixture
def rows():
    return Dataset.from_rows(ROWS)


@pytest.mark.parametrize("turns", BY_HAND)
def test_longest_looks_at_the_turns_that_it_is_told_to(rows, turns):
    found = Longest(turns=turns).score(Pool(rows))
    assert found.values.tolist() == pytest.approx(BY_HAND[turns])
    assert found.facts == {"turns": turns, "rows_of_several_turns": 2}
    assert len(found.reasons) == len(rows)
    assert found.reasons[1] == "2 words"
    assert Longest(unit="characters", turns=turns).score(Pool(rows)).values.tolist() == pytest.approx(
        {"all": [17, 3, 5, 11], "last": [4, 3, 5, 1], "mean": [8.5, 3, 5, 11 / 3], "min": [4, 3, 5, 1]}[turns]
    )


def test_reasons_name_the_turn_that_decides(rows):
    pool = Pool(rows)
    assert Longest(turns="min").score(pool).reasons[3] == "3 replies: the lowest is number 3, 1 words"
    assert (
        Longest(turns="mean").score(pool).reasons[0] == "2 replies: mean 2, the lowest is number 2, 1 words"
    )


@given(
    values=st.lists(st.floats(-9, 9) | st.just(float("nan")), min_size=6, max_size=6),
    turns=st.sampled_from(["mean", "min"]),
)
def test_a_turn_without_a_value_leaves_its_row_without_one(values, turns):
    given_ = iter(values)
    seen = []

    def score(pool):
        seen.extend(one.id for one in pool.rows)
        return Scores(np.array([next(given_) for _ in pool.rows]), reasons=[one.id for one in pool.rows])

    rows = Dataset.from_rows([ROWS[0], ROWS[1], ROWS[3]])
    found = over_turns(Pool(rows), turns, score)
    parts = [values[:2], values[2:3], values[3:]]
    how = {"mean": np.mean, "min": np.min}[turns]
    np.testing.assert_allclose(found.values, [how(part) for part in parts])
    assert seen == ["two, reply 1", "two, reply 2", "one", "open, reply 1", "open, reply 2", "open, reply 3"]


def test_rows_of_one_turn_and_last_turns_are_the_rows_themselves(rows):
    assert Views.of(rows.take([1, 2]), "mean") is None
    assert Views.of(rows, "last").rows is rows
    every = Views.of(rows, "min").rows
    last = [1, 2, 3, 6]
    assert every.keys[last].tolist() == rows.keys.tolist()
    assert [one.key for one in every] == [bytes(key) for key in every.keys.tolist()]
    assert [len(one.text) for one in every] == every.lengths.tolist()
    together = pooled(rows)
    assert together.ids == rows.ids
    same = [bool((a == b).all()) for a, b in zip(together.keys, rows.keys, strict=True)]
    assert same == [False, True, True, False]
    assert [one.key for one in together] == [bytes(key) for key in together.keys.tolist()]
    assert together[0].key == pooled_key(rows[0].key)
    assert together[0].response == "one two three\n\nfour"
    assert [every[at].fields["id"] for at in range(len(every))] == ["two"] * 2 + ["one", "masked"] + [
        "open"
    ] * 3
    assert every.column("id") == [one.fields["id"] for one in every.take(range(len(every)))]


def test_lima_looks_at_all_turns_together():
    half = "word " * 150
    rows = Dataset.from_rows([row("a", half, half), row("b", half, "I think so. " + half)])
    assert LIMA().score(Pool(rows)).values.tolist() == [0, -1]
    assert all(value < 0 for value in LIMA(turns="last").score(Pool(rows)).values)
    with pytest.raises(SettingsError, match="goes without them"):
        LIMA(groups="source", turns="mean")


def test_a_budget_of_tokens_counts_what_is_trained_on(rows):
    tokens = Tokens("words").compute(list(pooled(rows)))
    assert tokens.tolist() == BY_HAND["all"]
    settings = ["select.tokenizer=words"]
    kept = select(ROWS, strategy="longest", keep="11tok", settings=settings)
    assert set(kept.ids) == {"two", "open"}  # 7 + 4
    assert set(select(ROWS, strategy="longest", keep="10tok", settings=settings).ids) == {"open"}


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_losses_of_pooled_turns_are_taken_over_all_of_them(rows, template):
    tokenizer = models.load_tokenizer("tiny")
    pairs = both(list(pooled(rows)), tokenizer, template, 512, opened=True)
    wanted = ["one two threefour", "a b", "x y z", "p qr s t uv"]
    for pair, text in zip(pairs, wanted, strict=True):
        for encoded in pair:
            said = tokenizer.decode([label for label in encoded.labels if label != chat.IGNORE])
            assert text.endswith(said)
            assert len(said) >= len(text) - 1  # a token that lies across a published prompt's seam is its own
    alone = tokenizer.decode(pairs[0][1].input_ids)
    assert "Q" not in alone
    assert "Q1" in tokenizer.decode(pairs[0][0].input_ids)
    single = [rows[1], replace(rows[2], pooled=False)]
    assert both(single, tokenizer, template, 512, opened=True) == pairs[1:3]


def test_ifd_takes_each_turn_behind_what_stands_before_it(rows):
    pool = Pool(rows)
    made = {turns: IFD(model="tiny", cut=0, turns=turns).score(pool).values for turns in BY_HAND}
    signal = IFD(model="tiny", cut=0).signal()
    assert isinstance(signal, ResponseLoss)
    first = Dataset.from_rows([row("x", "one two three")])
    losses = Pool(first).signal(signal)
    each = [float(losses["prompted"][0] / losses["alone"][0]), made["last"][0]]
    assert made["mean"][0] == pytest.approx(np.mean(each), rel=1e-4)
    assert made["min"][0] == pytest.approx(np.min(each), rel=1e-4)
    assert made["all"][1] == made["mean"][1] == made["last"][1]
    assert len({made["all"][0], made["last"][0], made["mean"][0]}) == 3


@pytest.mark.parametrize("turns", ["mean", "min"])
def test_a_row_is_seen_as_its_worst_seen_turn_is(turns):
    long = "The tide rises and falls twice a day. " * 160
    rows = [row("one", "a b"), row("late", "p q", long), row("early", long, "p q"), row("two", "c d", "e")]
    settings = ["ifd.model=tiny", "ifd.cut=0", f"ifd.turns={turns}", "ifd.template=turns"]
    found = select(rows, strategy="ifd", keep=1, settings=settings)
    assert found.decisions()["seen_ifd"].to_pylist() == ["whole", "cut", "response not seen", "whole"]
    (counted,) = found.facts["ifd"]["seen"].values()
    assert (counted["rows"], counted["cut"]) == (4, 2)


def test_a_judge_is_asked_about_the_turns_and_ratings_that_were_paid_for_are_found(rows):
    judge = Model(model="m", base_url="http://x/v1")

    def first_key(one):  # as it was before there were settings for turns
        made = one.key + bytes.fromhex(judge.hash) + (0).to_bytes(4, "big")
        return hashlib.blake2b(made, digest_size=16).digest()

    assert judge.key(rows[0]) == first_key(rows[0])
    assert judge.key(rows[1]) == first_key(rows[1])
    together = pooled(rows)
    assert judge.key(together[0]) not in {judge.key(one) for one in rows}
    assert templates.instruction(rows[0]) == "user: Q0\n\nassistant: one two three\n\nuser: Q1"
    assert templates.response(rows[0]) == "four"
    assert templates.instruction(together[0]) == "Q0"
    assert templates.response(together[0]) == "assistant: one two three\n\nuser: Q1\n\nassistant: four"
    assert templates.response(rows[3]) == "v"
    thanked = pooled(Dataset.from_rows([row("x", "v", more=[{"role": "user", "content": "Thanks"}])]))
    assert templates.response(thanked[0]) == "assistant: v\n\nuser: Thanks"
    known = Judged(["two"], [rows[0].key]).of(judge.hash, 0)  # from the row's key alone
    assert [key for _, key in known] == [judge.key(rows[0]), judge.key(together[0])]
    elsewhere = replace(judge, model="imported:m", base_url="")
    assert elsewhere.key(rows[0]) == elsewhere.key(together[0])
    quotes = {turns: Judge(judge=judge, turns=turns).quote(Pool(rows)) for turns in ("all", "mean")}
    assert [quote.rows for (quote,) in quotes.values()] == [4, 7]


@pytest.mark.parametrize("made", [Longest, LIMA, IFD, Judge])
def test_an_unknown_setting_is_refused(made):
    with pytest.raises(SettingsError, match=r"turns = 'first' is unknown\. Known: all, last, mean, min"):
        made(turns="first")


def test_the_number_of_turns_is_known_of_every_shape():
    pair = {"instruction": "Q", "output": "A"}
    plain = Dataset.from_rows([pair, pair])
    assert plain.learnt.tolist() == [[1, 0], [1, 0]] == [[len(one.learnt), 0] for one in plain]
    assert Dataset.from_rows([pair, pair | {"history": [["a", "b"]]}]).learnt.tolist() == [[1, 0], [2, 0]]
    assert Dataset.from_rows(ROWS).learnt.tolist() == [[2, 0], [1, 0], [1, 0], [3, 1]]
    assert Dataset.from_rows(list(Dataset.from_rows(ROWS))).learnt.tolist() == [
        [2, 0],
        [1, 0],
        [1, 0],
        [3, 1],
    ]
