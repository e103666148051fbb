"""A rating is read where it belongs or not at all."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.llm.answers import STATUSES, Answer, GarbledError, Reply, read_body
from dfilter.llm.judge import Tally
from dfilter.llm.scores import ExpectedScore, TextScore, expectation

UNDERSTOOD = {
    "4.5": 4.5,
    "4.5/5": 4.5,
    "4.5 / 5.0": 4.5,
    "**4.5**": 4.5,
    "`4.5`": 4.5,
    "_4_": 4.0,
    "# 4.5": 4.5,
    "[4.5]": 4.5,
    "[[4.5]]": 4.5,
    "(3)": 3.0,
    "4,5": 4.5,
    "Score: 4.5": 4.5,
    "Score:4.5": 4.5,
    "Score: 4": 4.0,
    "**Score:** 4.5": 4.5,
    "**Score: 4.5/5**\nThe response is right.": 4.5,
    "score = 0": 0.0,
    "Accuracy: 4.5": 4.5,
    "Accuracy score: 3.5": 3.5,
    "The accuracy score is 4.5.": 4.5,
    "My rating: 3 points": 3.0,
    "Rating is 4": 4.0,
    "4.5 out of 5.": 4.5,
    "Score (0-5): 4": 4.0,
    "Score:\n4.5\nbecause": 4.5,
    "\n\n  4.5  \nThe response ...": 4.5,
    "4.5\r\nOutput [[10]] and a score of 1": 4.5,
    "\ufeff4.5": 4.5,
    '{"score": 4.5}': 4.5,
    '{"rating": "4,5", "why": "9"}': 4.5,
    "<think>5? No, 2.\n</think>\n\n3": 3.0,
    "5.0": 5.0,
    "0": 0.0,
    "score 4.5": 4.5,
    "I give it a 4.5": 4.5,
    "The score is 4 because it has 3 errors": 4.0,
    "\u0664": 4.0,
    "\uff14": 4.0,
}
REFUSED = [
    "3-4", "3 - 4", "3 or 4", "4*5", "4**5", "45", "1e9", "1e0", "inf", "nan", "-1", "+4", "05", "4,500",
    "4.5.1", "4/10", "9/10", "4.5/", "4 of the 5 facts are wrong", "4.5 - good, but 2 in part",
    "1. The response is accurate.", "Output [[10]] rating 3", "Score: high", "Score: 4.5 or 5",
    "four", "\xbd", "5.01", "6", "Score: 45", '{"score": 4, "rating": 5}',
    '{"score": NaN}', '{"score": 1e0}', '{"score": true}', '{"score": [4]}', "{" * 5000, "",
    "The response is accurate.\n4.5",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), UNDERSTOOD.items())
def test_what_judges_write_is_read(text: str, value: float) -> None:
    reading = TextScore().read(Reply(text, finish="stop"))
    assert (reading.status, reading.value) == ("ok", value)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_understood_is_unparsed(text: str) -> None:
    reading = TextScore().read(Reply(text, finish="stop"))
    assert reading.status == "unparsed"
    assert math.isnan(reading.value)
    assert reading.reason


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply("4", finish="length"), "truncated"),  # may be the beginning of 4.5
        (Reply("4.5\nThe resp", finish="length"), "ok"),
        (Reply("", finish="length"), "truncated"),
        (Reply("4.5", finish="content_filter"), "filtered"),
        (Reply("", refusal="I cannot help with that."), "refused"),
        (Reply("I'm sorry, but I can't rate this."), "refused"),
        (Reply("<think>it is a 4", finish="stop"), "unparsed"),
    ],
)
def test_answers_without_a_score_are_named(reply: Reply, status: str) -> None:
    assert TextScore().read(reply).status == status


@given(
    st.one_of(
        st.text(max_size=60), st.from_regex(r"[*_\[( ]{0,3}(Score: )?[0-9]{1,3}[.,/ 0-9eE+-]{0,6}.{0,8}")
    )
)
def test_a_rating_stands_in_the_text_and_within_the_scale(text: str) -> None:
    reading = TextScore().read(Reply(text, finish="stop"))
    if reading.status == "ok":
        assert 0 <= reading.value <= 5
        numbers = [float(n.replace(",", ".")) for n in re.findall(r"\d+(?:[.,]\d+)?", text)]
        assert reading.value in numbers
    else:
        assert math.isnan(reading.value)


@given(
    st.integers(0, 50),
    st.sampled_from(["{}", "{}/5", "**{}**", "Score: {}", "{}\nBecause.", "Rating: {}/5\nx", "[{}]"]),
)
def test_every_tenth_of_the_scale_is_read_in_every_shape(tenths: int, shape: str) -> None:
    text = f"{tenths / 10:g}"
    reading = TextScore().read(Reply(shape.format(text), finish="stop"))
    assert (reading.status, reading.value) == ("ok", float(text))


def test_expectation_by_hand() -> None:
    # 0.6 on 4, 0.2 on 5 in two spellings, 0.2 elsewhere: (0.6*4 + 0.2*5) / 0.8 = 4.25, mass 0.8.
    tokens = [("4", math.log(0.6)), (" 5", math.log(0.15)), ("5", math.log(0.05)), ("The", math.log(0.2))]
    value, mass = expectation(tokens, 0, 5)
    assert value == pytest.approx(4.25)
    assert mass == pytest.approx(0.8)


@given(
    st.lists(
        st.tuples(st.sampled_from([*"0123456789", " 4", "▁3", "x", "10"]), st.floats(-50, 0.0)), max_size=20
    )
)
def test_expectation_stays_on_the_scale(tokens: list[tuple[str, float]]) -> None:
    value, mass = expectation(tokens, 1, 5)
    assert 0 <= mass <= 1
    assert math.isnan(value) if mass == 0 else 1 <= value <= 5


def test_little_mass_is_no_rating() -> None:
    reply = Reply("The", logprobs=(("The", (("The", math.log(0.7)), ("4", math.log(0.3)))),))
    reading = ExpectedScore().read(reply)
    assert (reading.status, reading.value) == ("ok", 4.0)  # kept, with its mass, for who asks for less
    assert reading.mass == pytest.approx(0.3)
    for least, status in ((0.5, "unparsed"), (0.2, "ok")):
        tally = Tally(1, 1, least)
        tally.add(Answer(0, b"k", reading.status, reading.value, reading.mass))
        assert STATUSES[tally.ratings()["status"][0]] == status
    assert ExpectedScore().read(Reply("4")).status == "unparsed"


def tokens(*steps: dict[str, float]) -> Reply:
    """A reply whose tokens are the likeliest of each step; its text is theirs."""
    made = tuple(
        (max(step, key=step.__getitem__), tuple((token, math.log(p)) for token, p in step.items()))
        for step in steps
    )
    return Reply("".join(token for token, _ in made), finish="length", logprobs=made)


@pytest.mark.parametrize("blank", [" ", "\n", "", "▁", "Ġ", "Ċ", "<0x0A>", "**", '"', " [", "\u3000"])
def test_expected_looks_at_the_first_token_that_is_not_blank(blank: str) -> None:
    reading = ExpectedScore().read(tokens({blank: 0.9, "1": 0.1}, {"4": 0.6, "5": 0.2, "The": 0.2}))
    assert reading.status == "ok"
    assert reading.value == pytest.approx(4.25)
    assert reading.mass == pytest.approx(0.8)
    reading = ExpectedScore().read(tokens({blank: 0.9}, {blank: 0.9}, {"3": 0.5, " 3": 0.4}))
    assert (reading.status, reading.value, reading.reason) == ("ok", pytest.approx(3.0), "")


def test_expected_says_what_stood_there() -> None:
    reading = ExpectedScore().read(tokens({"The": 0.6, "Score": 0.3, "4": 0.08, "x": 0.02}))
    assert (reading.status, reading.value) == ("ok", pytest.approx(4.0))
    assert reading.mass == pytest.approx(0.08)
    assert reading.reason == "besides scores: 'The' 0.60, 'Score' 0.30"
    reading = ExpectedScore().read(tokens({"The": 0.9, "A": 0.1}))
    assert reading.status == "unparsed"
    assert "'The' 0.90, 'A' 0.10" in reading.reason


@pytest.mark.parametrize("first", ["\u2581", " ", "\n", ""])
def test_expected_has_no_score_where_only_blanks_were_answered(first: str) -> None:
    reading = ExpectedScore().read(tokens({first: 0.6, "4": 0.33, "5": 0.05}))
    assert reading.status == "unparsed"
    assert math.isnan(reading.value)
    assert reading.mass == pytest.approx(0.38)
    assert f"{first!r} 0.60" in reading.reason


@pytest.mark.parametrize(
    "steps",
    [["<think>"], ["<", "think", ">"], ["\n", "<think>", "4"], ["[THINK]"], ["<think>", "</think>", "4"]],
)
def test_expected_of_a_model_that_thinks_first_is_unparsed(steps: list[str]) -> None:
    reading = ExpectedScore().read(tokens(*[{step: 0.9, "4": 0.1} for step in steps]))
    assert reading.status == "unparsed"
    assert "thoughts" in reading.reason


def body(content: object, finish: str = "stop", **more: object) -> str:
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}]})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("4", "4"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "4"}], "4"),
        ([{"type": "text", "text": "4"}, {"type": "text", "text": ".5"}], "4.5"),
        ([{"text": "4"}], "4"),
        (["4", ".5"], "4.5"),
        ({"type": "text", "text": "4"}, "4"),
        ([{"type": "output_text", "text": "4"}], "4"),
        ([{"type": "text", "text": {"value": "4"}}], "4"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "5"}]},
                {"type": "text", "text": "4"},
            ],
            "4",
        ),
        ([{"type": "thinking", "text": "5"}, {"type": "text", "text": "4"}], "4"),
        ([{"type": "reasoning", "text": "5"}], ""),
        ([{"type": "refusal", "refusal": "5"}], ""),
        ([None, 5, [["5"]]], ""),
    ],
)
def test_a_messages_content_is_its_text_without_thoughts(content: object, text: str) -> None:
    for thought in ({}, {"reasoning_content": "5"}, {"reasoning": "5\n"}, {"thinking": "5"}):
        assert read_body(body(content, **thought)).text == text


@pytest.mark.parametrize("content", [4, 4.5, True, [{"type": "text", "text": 4}], [{"text": {"value": 4}}]])
def test_a_content_that_is_no_text_is_garbled(content: object) -> None:
    with pytest.raises(GarbledError):
        read_body(body(content))


def test_thoughts_and_calls_of_tools_are_no_rating() -> None:
    assert TextScore().read(read_body(body(None, reasoning_content="4"))).status == "unparsed"
    assert TextScore().read(read_body(body("", "length", reasoning="4"))).status == "truncated"
    called = TextScore().read(
        read_body(body(None, "tool_calls", tool_calls=[{"function": {"name": "rate"}}]))
    )
    assert called.status == "unparsed"
    assert "tool" in called.reason
