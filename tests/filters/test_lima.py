from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.errors import InputError, SettingsError
from dfilter.filters.cleaning import LIMACleaning, cleaned
from dfilter.filters.lima import LIMA, MAX_CHARACTERS, MIN_CHARACTERS, MIN_SOURCE_SCORE, TAU, shared_order
from dfilter.pool import Pool
from dfilter.replies import composed
from dfilter.selector import quotas
from dfilter.types import Message

GOOD = "A plain sentence about the matter. " * 40  # 1,400 characters


def rows_of(*responses: str, **columns: list) -> Dataset:
    extra = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    lines = extra or [{}] * len(responses)
    return Dataset.from_rows(
        [
            {"instruction": f"Ask {i}", "output": t, **e}
            for i, (t, e) in enumerate(zip(responses, lines, strict=True))
        ]
    )


def test_defaults_are_the_papers() -> None:
    # arXiv:2305.11206, section 2.1
    assert (MIN_CHARACTERS, MAX_CHARACTERS, MIN_SOURCE_SCORE, TAU) == (1200, 4096, 10, 3)
    assert (LIMA().min_characters, LIMA().max_characters, LIMA().tau) == (1200, 4096, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, "passes all rules"),
        ("short", "5 characters"),
        ("x" * 4097, "4,097 characters"),
        (GOOD + "I do.", "first person"),
        (GOOD + "On my side.", "first person"),
        (GOOD + "As mentioned above.", "refers to other answers ('As mentioned')"),
        (GOOD + "See Stack Exchange.", "refers to other answers ('Stack Exchange')"),
        (GOOD + "The accepted answer is wrong.", "refers to other answers ('accepted answer')"),
        ("I", "1 characters; first person"),
    ],
)
def test_each_rule_is_a_reason_of_its_own(text: str, reason: str) -> None:
    scores = LIMA().score(Pool(rows_of(text)))
    assert scores.reasons[0] == reason
    assert (scores.values[0] == 0) == (reason == "passes all rules")


@pytest.mark.parametrize("text", ["Imagine a tummy.", "myth", "MY", "_I_ and IV"])
def test_words_that_only_contain_the_first_person_pass(text: str) -> None:
    assert "first" not in LIMA().score(Pool(rows_of(GOOD + text))).reasons[0]


def test_rows_are_ranked_by_rules_failed_then_by_how_far_the_length_misses() -> None:
    texts = [GOOD, "x" * 1100, "x" * 600, "x" * 8000, "x", GOOD + "my", "I " + "x" * 1100]
    values = LIMA().score(Pool(rows_of(*texts))).values
    assert values[0] == 0
    assert values[5] == -1
    assert 0 > values[5] > values[1] > values[2] > values[4] > -2 > values[6]
    assert values[3] == pytest.approx(-1 - (8000 - 4096) / 8000)
    assert values[1] == pytest.approx(-1 - 100 / 1201)


@pytest.mark.parametrize("length", [1199, 1200, 4096, 4097])
def test_the_range_includes_its_ends(length: int) -> None:
    passes = LIMA().score(Pool(rows_of("x" * length))).values[0] == 0
    assert passes == (1200 <= length <= 4096)


def test_the_rules_look_at_the_cleaned_text_and_leave_the_row_alone() -> None:
    text = "x" * 1190 + " ![picture of my dog](http://a.b/c.png)"
    rows = rows_of(text)
    assert "first" not in (reasons := LIMA().score(Pool(rows)).reasons)[0]
    assert reasons[0] == "1,190 characters"
    assert LIMA(clean=False).score(Pool(rows)).reasons[0] == "first person"
    assert rows[0].response == text


def test_rules_can_be_left_out_and_unknown_ones_are_refused() -> None:
    assert LIMA(rules=("first_person",)).score(Pool(rows_of("short"))).values[0] == 0
    with pytest.raises(SettingsError, match="no rule 'politeness'") as error:
        LIMA(rules=("politeness",), min_characters=5, max_characters=2, tau=0.5)
    assert len(error.value.findings) == 3


def test_length_alone_keeps_514_of_alpaca(test_data) -> None:
    rows = Dataset.from_rows(json.loads((test_data / "alpaca" / "alpaca_data.json").read_text()))
    assert (LIMA(rules=("length",), clean=False).score(Pool(rows)).values >= 0).sum() == 514
    both = LIMA(rules=("length", "first_person"), clean=False)
    assert (both.score(Pool(rows)).values >= 0).sum() == 472  # 473 where "My" is let pass


# --- curation by source


def test_low_source_scores_fail_and_the_best_of_a_source_comes_first() -> None:
    scores = LIMA(score_column="votes").score(Pool(rows_of(*[GOOD] * 5, votes=[12, 9, 30, None, 10])))
    assert scores.reasons[1] == "source score 9 < 10"
    assert (scores.values >= 0).tolist() == [True, False, True, False, True]
    assert np.argsort(-scores.values)[:3].tolist() == [2, 0, 4]
    assert scores.facts["failed_source_score"] == 2


def test_a_score_column_without_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="name another one as score_column"):
        LIMA(score_column="votes").score(Pool(rows_of(GOOD, votes=["many"])))


def order_of(sets: list[int], sizes: list[int], tau: float) -> list[tuple[int, int]]:
    """The (set, exchange) of every row in the shared order, all rows passing."""
    exchange = np.repeat(np.arange(len(sizes)), sizes)
    outer = np.array(sets)[exchange]
    place = shared_order(np.ones(len(exchange), bool), [outer, exchange], None, tau, np.arange(len(exchange)))
    return [(int(outer[row]), int(exchange[row])) for row in np.argsort(place)]


def test_sets_share_equally_and_exchanges_by_the_cube_root() -> None:
    # Two exchanges of 800 and 100 rows in set 0: 800^(1/3) : 100^(1/3) = 2 : 1. One of 300 in set 1.
    first = order_of([0, 0, 1], [800, 100, 300], tau=3)[:180]
    counts = [sum(pair == wanted for pair in first) for wanted in ((0, 0), (0, 1), (1, 2))]
    assert counts == [60, 30, 90]


def test_a_small_exchange_comes_in_the_middle_of_its_share() -> None:
    # Shares 8 : 1. The only row of the second stands at 1, the first's rows at 1/8, 3/8, 5/8, 7/8, 9/8, ...
    assert [exchange for _, exchange in order_of([0, 0], [8, 1], tau=1)] == [0, 0, 0, 0, 1, 0, 0, 0, 0]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.sampled_from([1.0, 2.0, 3.0, np.inf]),
)
@settings(max_examples=60)
def test_every_prefix_keeps_the_shares_to_within_a_few_rows(sizes: list[int], tau: float) -> None:
    exchange = np.repeat(np.arange(len(sizes)), sizes)
    place = shared_order(np.ones(len(exchange), bool), [exchange], None, tau, np.arange(len(exchange)))
    assert sorted(place.tolist()) == list(range(len(exchange)))
    order = exchange[np.argsort(place)]
    for budget in range(1, len(order) + 1):
        taken = np.bincount(order[:budget], minlength=len(sizes))
        assert np.abs(taken - quotas(np.array(sizes), budget, tau)).max() <= len(sizes)


def test_the_shared_order_follows_the_rows_when_they_are_permuted() -> None:
    votes = [50, 40, 30, 20, 50, 40, 30, 20]
    rows = rows_of(*[GOOD + "!" * i for i in range(8)], site=list("aaaaaabb"), votes=votes)
    made = LIMA(groups="site", score_column="votes")
    order = np.array([5, 2, 7, 0, 3, 1, 6, 4])
    straight, shuffled = made.score(Pool(rows)).values, made.score(Pool(rows.take(order))).values
    assert (straight[order] == shuffled).all()
    assert len(set(straight)) == 8


def test_nested_groups_are_named_with_a_slash() -> None:
    rows = rows_of(*[GOOD + "!" * i for i in range(6)], set=list("xxxxyy"), exchange=list("aaabcc"))
    values = LIMA(groups="set/exchange").score(Pool(rows)).values
    top = np.argsort(-values)
    assert {"x", "y"} == {"xxxxyy"[i] for i in top[:2]}
    assert sorted("xxxxyy"[i] for i in top[:4]) == ["x", "x", "y", "y"]


# --- cleaning


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("See [the manual](https://a.b/c_(d)) now", "See the manual now"),
        ("Look ![a cat](http://x.y/z.png) here", "Look here"),
        ("Visit https://example.com/a?b=c today", "Visit today"),
        ("<p>Hello <b>bold</b> <a href='http://x.y'>link</a></p>", "Hello bold link"),
        ("a <br/> b", "a\n b"),
        ("Tom &amp; Ann", "Tom & Ann"),
        ("text [ref][1]\n\n[1]: http://a.b/c", "text ref"),
        ("kept <ul><li>one</li></ul>", "kept <ul><li>one</li></ul>"),
        ("- one\n- two\n1. three", "- one\n- two\n1. three"),
        ("`<b>` and ```\n<p>[a](http://b.c)</p>\n```", "`<b>` and ```\n<p>[a](http://b.c)</p>\n```"),
        ("<pre><code>a <b>c</b></code></pre>", "<pre><code>a <b>c</b></code></pre>"),
        ("#include <stdio.h> List<String> a < b > c", "#include <stdio.h> List<String> a < b > c"),
        ("array[0] and f(x) [note]", "array[0] and f(x) [note]"),
        ("  spaced   out  ", "  spaced   out  "),
        ("<!-- hidden -->shown", "shown"),
        ("<script>var a = 1</script>shown", "shown"),
        ("<html><body><p>page</p></body></html>", "<html><body><p>page</p></body></html>"),
    ],
)
def test_links_images_and_html_go_code_and_lists_stay(before: str, after: str) -> None:
    assert cleaned(before) == after


@given(st.text(alphabet="ab <>/&;[]()!`\n.:htpws\"'", max_size=80))
@settings(max_examples=300)
def test_cleaning_never_fails_and_leaves_plain_text_alone(text: str) -> None:
    assert len(cleaned(text)) <= len(text)
    plain = "".join(c for c in text if c not in "<>&[]:.")
    assert cleaned(plain) == plain


@pytest.mark.serial
@pytest.mark.parametrize("text", ["<" * 20_000, "[" * 20_000, "![" * 10_000, "<!--" * 10_000, "<a " * 10_000])
def test_hostile_text_is_cleaned_in_reasonable_time(text: str) -> None:
    import time

    began = time.perf_counter()
    cleaned(text)
    assert time.perf_counter() - began < 5


def test_the_transform_cleans_every_turn_and_the_row_as_it_came() -> None:
    rows = Dataset.from_rows(
        [{"instruction": "<b>Why</b>?", "input": "", "output": "So [it](http://a.b) is", "n": 3}]
    )
    row, reason = LIMACleaning().apply(rows[0])
    assert reason == "cleaned"
    assert row.messages == (Message("user", "Why?"), Message("assistant", "So it is"))
    assert dict(row.fields) == {"instruction": "Why?", "input": "", "output": "So it is", "n": 3}
    assert row.id == rows[0].id


def test_the_transform_drops_a_row_that_was_only_markup_and_passes_others_on() -> None:
    rows = Dataset.from_rows([{"instruction": "a", "output": "<br>"}, {"instruction": "a", "output": "fine"}])
    assert LIMACleaning().apply(rows[0]) == (None, "nothing but links, images and HTML")
    assert LIMACleaning().apply(rows[1]) == (rows[1], "unchanged")


def test_title_or_description_becomes_the_prompt_at_random_by_seed() -> None:
    lines = [{"prompt": f"p{i}", "response": "r", "title": f"t{i}", "body": f"b{i}"} for i in range(60)]
    rows = Dataset.from_rows(lines)
    seen = []
    for seed in (0, 0, 1):
        made = LIMACleaning(title="title", description="body", seed=seed)
        seen.append([made.apply(row)[0].prompt[0] for row in rows])
    assert seen[0] == seen[1] != seen[2]
    assert 15 < seen[0].count("t") < 45
    only = LIMACleaning(title="title", description="missing").apply(rows[0])[0]
    assert only.prompt == "t0"
    assert only.fields["prompt"] == "t0"


def test_cleaning_is_the_same_however_often_it_is_done() -> None:
    samples = ["<b>a</b> [x](http://y.z) &lt;b&gt;", "![i](u) text https://a.b", "<p>a</p>\n\n\n<p>b</p>"]
    for text in itertools.chain(samples, [GOOD]):
        assert cleaned(cleaned(text)) in {cleaned(text), "a x"}


def test_cleaning_leaves_calls_of_tools_as_they_are():
    link = "https://a.example/x"
    call = {"name": "open", "arguments": {"url": link}}
    said = {"role": "assistant", "content": f"See {link} now", "tool_calls": [call], "train": False}
    last = {"role": "assistant", "content": "A"}
    rows = Dataset.from_rows([{"messages": [{"role": "user", "content": "Q"}, said, last]}])
    made, why = LIMACleaning().apply(rows[0])
    assert why == "cleaned"
    assert made.messages[1] == Message("assistant", composed("See now", "", [call]), trained=False)
    assert made.fields["messages"][1]["content"] == "See now"
    assert Dataset.from_rows([made])[0].messages == made.messages
