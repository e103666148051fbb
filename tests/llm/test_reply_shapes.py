"""Replies are read as a person reads them: no wrong number, and none only where a person would hesitate."""

# ruff: noqa: RUF001 - judges write in many scripts

from __future__ import annotations

import json
import math
import re
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dfilter.leaderboard.agreement import tally
from dfilter.llm.answers import Reader, Reply
from dfilter.llm.grades import SCALES, OneOf
from dfilter.llm.pairs import PairScores
from dfilter.llm.scores import TextScore

SHAPES = sorted((Path(__file__).parent / "shapes").glob("*.py"))
shapes = SimpleNamespace(
    **{name: table for file in SHAPES for name, table in runpy.run_path(str(file)).items()}
)

ACCURACY = TextScore(0, 5, "accuracy")
TABLES: list[tuple[str, Reader, str, dict[str, float | None]]] = [
    ("accuracy", ACCURACY, "stop", shapes.ACCURACY),
    ("natural", ACCURACY, "stop", shapes.NATURAL),
    ("languages", ACCURACY, "stop", shapes.LANGUAGES),
    ("quoted", ACCURACY, "stop", shapes.QUOTED),
    ("cut", ACCURACY, "length", shapes.CUT),
    ("unknown criterion", TextScore(0, 5), "stop", shapes.UNKNOWN),
    ("hundred", TextScore(0, 100), "stop", shapes.HUNDRED),
    ("pairs", PairScores(), "stop", shapes.PAIRS),
    ("cut pairs", PairScores(), "length", shapes.PAIRS_CUT),
    ("likert", OneOf(SCALES["likert"], "likert"), "stop", shapes.LIKERT),
    ("quality", OneOf(SCALES["quality"], "quality"), "stop", shapes.QUALITY),
    ("safety", OneOf(SCALES["safety"], "safety"), "stop", shapes.SAFETY),
]
EVERY = [
    (title, reader, finish, text, right)
    for title, reader, finish, table in TABLES
    for text, right in table.items()
]


@pytest.mark.parametrize(("title", "reader", "finish", "text", "right"), EVERY)
def test_a_reply_is_read_right_or_not_at_all(title, reader, finish, text, right):
    reading = reader.read(Reply(text, finish=finish))
    if right is None:
        assert reading.status in {"unparsed", "truncated", "refused"}
        assert math.isnan(reading.value)
        assert reading.reason
    else:
        assert (reading.status, reading.value) == ("ok", right)


def test_the_table_is_long_and_has_both_kinds():
    assert len(EVERY) >= 200
    assert sum(right is None for *_, right in EVERY) >= 200
    assert sum(right is not None for *_, right in EVERY) >= 200


NUMERIC = [TextScore(0, 5), ACCURACY, TextScore(0, 100), PairScores(), OneOf(SCALES["likert"], "likert")]
SCORE_TALK = [
    "score",
    "Score:",
    "rating",
    "评分：",
    "I give it",
    "/5",
    "[[",
    "]]",
    "</think>",
    "<score>",
    "</score>",
    "{",
    "}",
]
PLAIN = [
    "Paris",
    "is",
    "the",
    "right",
    "reply",
    "and",
    "of",
    "wrong",
    "facts",
    "lines",
    "good",
    "It",
    "has",
    "years",
]


@given(
    st.lists(st.one_of(st.sampled_from(SCORE_TALK), st.text(max_size=5)), max_size=12), st.sampled_from(" \n")
)
def test_a_text_without_a_number_is_never_a_score(words: list[str], between: str) -> None:
    text = between.join(words)
    assume(not any(c.isdecimal() for c in text))
    for reader in NUMERIC:
        assert reader.read(Reply(text, finish="stop")).status != "ok"


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.sampled_from(PLAIN), min_size=1, max_size=4),
    st.lists(st.sampled_from(PLAIN), max_size=4),
    st.lists(st.sampled_from(PLAIN), max_size=4),
    st.sampled_from([" ", ". ", ", ", "; ", ": ", " - ", "\n", "\n\n"]),
    st.booleans(),
)
def test_of_two_numbers_without_a_label_none_is_the_score(
    one, two, before, between, after, gap, first
) -> None:
    """They stand in prose; a number alone on the first line stands where templates ask for the score."""
    assume(one != two)
    words = [*([] if first else before), str(one), *between, gap, str(two), *after]
    text = " ".join(words).replace(" \n", "\n")
    assume(not re.match(r"\W*\d\W*(\n|$)", text))
    for reader in NUMERIC[:3]:
        assert reader.read(Reply(text, finish="stop")).status != "ok", text


@given(st.integers(0, 5), st.sampled_from(sorted(t for t, v in shapes.QUOTED.items() if v is None)))
def test_what_a_judge_quotes_never_changes_a_score_alone_on_the_first_line(score: int, quoted: str) -> None:
    reading = ACCURACY.read(Reply(f"{score}\n{quoted}", finish="stop"))
    assert reading.status != "ok" or reading.value == score


@given(st.text(alphabet='0123456789.,/ \n"`>*[]{}:-<|Score thinkI gvex5评分</>', max_size=80))
def test_readers_never_raise_and_stay_on_the_scale(text: str) -> None:
    for reader in NUMERIC:
        for finish in ("stop", "length"):
            reading = reader.read(Reply(text, finish=finish))
            assert (reading.status == "ok") == math.isfinite(reading.value)
    value = ACCURACY.read(Reply(text, finish="stop")).value
    assert math.isnan(value) or 0 <= value <= 5


@pytest.mark.parametrize(
    "part",
    ["the ", "score ", "my score is ", "1,", "1 ", "|", "| 1 ", "[", "(", '"', "`", "</think>", "I give it ",
     "<<<a1b2c3d ", "<score>", "{", '{"a":', "4 out of ", "\n", "```\n", "> ", "评分", "* ", "1. ",
     "\\boxed{", "a: ", "4 (", "- "],
)  # fmt: skip
def test_long_replies_are_read_in_time(part: str) -> None:
    text = part * (20_000 // len(part))
    for reader in (ACCURACY, PairScores(), OneOf(SCALES["quality"], "quality")):
        started = time.process_time()
        reader.read(Reply(text, finish="stop"))
        assert time.process_time() - started < 2.0


@pytest.mark.parametrize(("name", "counts"), [("koala", (94, 71, 15)), ("vicuna", (40, 38, 2))])
def test_the_words_of_a_published_judge_give_the_published_verdicts(test_data, name, counts):
    folder = test_data / "judgements" / "alpagasus2"
    signs = []
    for file in (f"alpagasus2-alpaca2-{name}.json", f"alpaca2-alpagasus2-{name}.json"):
        rows = json.loads((folder / file).read_text())
        readings = [PairScores().read(Reply(row["review"], finish="stop")) for row in rows]
        assert [reading.value for reading in readings] == [a - b for a, b in (row["score"] for row in rows)]
        signs.append(np.sign([reading.value for reading in readings]))
    found = tally(signs[0], -signs[1])
    assert (found.win, found.tie, found.lose) == counts
