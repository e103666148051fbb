"""Repeats and contamination, found by words alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter import textmatch as t
from dfilter.types import Example, Message

LONG = "write one poem about the sea at night in winter when the moon is bright and the wind is cold"


def example(prompt, response="fine", at=0):
    return Example(str(at), (Message("user", prompt), Message("assistant", response)), {})


def test_words_ignore_case_punctuation_and_unicode_form():
    assert t.words("The  Café, isn't\nﬁne!") == t.words("the café isn t fine")


def test_near_duplicates_by_hand():
    words = LONG.split()
    assert len(words) == 20  # 16 runs of five words
    first = " ".join(["please", *words])  # one more run: 16 of 17 shared
    middle = " ".join([*words[:10], "calm", *words[11:]])  # five runs lost on both sides: 11 of 21 shared
    index = t.NearIndex([LONG])
    assert index.find(first) == 0
    assert index.find(middle) is None
    assert t.NearIndex([LONG], near=0.5).find(middle) == 0
    assert index.find(LONG.upper() + "!!") == 0


def test_short_texts_are_compared_whole():
    index = t.NearIndex(["Add 2 and 3."])
    assert index.find("add 2, and 3") == 0
    assert index.find("Add 2 and 4.") is None


def test_clusters_take_the_label_of_the_first():
    assert t.clusters([LONG, "something else", LONG + " please", "something else"]) == [0, 1, 0, 1]


def test_set_aside_takes_repeats_along():
    rows = [example(f"question number {i} about topic {i * 7}", at=i) for i in range(100)]
    rows += [example(row.prompt.upper(), "another answer", at=100 + i) for i, row in enumerate(rows)]
    parts = t.set_aside(rows, 0.05)
    assert len(parts.heldout) + len(parts.repeats) + len(parts.pool) == 200
    assert len(parts.repeats) >= len(parts.heldout) > 0
    asked = {tuple(t.words(rows[at].prompt)) for at in parts.heldout}
    assert len(asked) == len(parts.heldout)
    assert not asked & {tuple(t.words(rows[at].prompt)) for at in parts.pool}
    assert asked == {tuple(t.words(rows[at].prompt)) for at in parts.repeats} | asked


@given(st.permutations(list(range(40))), st.integers(0, 5))
@settings(max_examples=25)
def test_what_is_set_aside_depends_on_content_not_on_order(order, seed):
    rows = [example(f"tell me about subject {i}", at=i) for i in range(40)]
    one, two = t.set_aside(rows, 0.1, seed=seed), t.set_aside([rows[at] for at in order], 0.1, seed=seed)
    assert {rows[at].id for at in one.heldout} == {rows[order[at]].id for at in two.heldout}
    assert len(one.heldout) == 4
    assert np.all(np.diff(one.pool) > 0)


def test_another_seed_sets_other_rows_aside():
    rows = [example(f"tell me about subject {i}", at=i) for i in range(200)]
    assert t.set_aside(rows, 0.1).heldout.tolist() != t.set_aside(rows, 0.1, seed=1).heldout.tolist()


@pytest.mark.parametrize(("share", "rows"), [(0.0, 5), (1.0, 5), (0.5, 1)])
def test_a_share_that_leaves_nothing_is_refused(share, rows):
    with pytest.raises(ValueError, match="share between 0 and 1"):
        t.set_aside([example(str(i)) for i in range(rows)], share)


def test_contamination_by_hand():
    thirteen = " ".join(f"w{i}" for i in range(13))
    twelve = " ".join(f"w{i}" for i in range(12))
    prompts = [
        f"Intro. {thirteen}, and more",  # a row's response quotes 13 words of it
        f"{twelve} other",  # shares only 12 in a row
        "Add 2 and 3!",  # a row asks the same
        "Add 2 and 4!",
        "unrelated",
    ]
    rows = [
        example("a question", f"As they say: {thirteen.upper()}."),
        example("add 2 and 3"),
        example("What is add 2 and 4 in words? Tell me."),
    ]
    assert t.contaminated(prompts, rows).tolist() == [True, False, True, False, False]
    assert t.contaminated(prompts, []).tolist() == [False] * 5


def test_words_across_prompt_and_response_are_no_match():
    half = [f"w{i}" for i in range(14)]
    row = example(" ".join(half[:7]), " ".join(half[7:]))
    assert not t.contaminated([" ".join(half)], [row]).any()
