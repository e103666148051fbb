"""What a reply took and cost, as today's servers write it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.errors import SettingsError
from dfilter.llm.answers import read_body
from dfilter.llm.budget import Budget
from dfilter.llm.prices import Price
from dfilter.llm.usage import count, usage_of

DETAILS = "completion_tokens_details"
THOUGHT = {DETAILS: {"reasoning_tokens": 1500}}


def told(prompt, answer, total=None, **more):
    found = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total}
    return {name: value for name, value in found.items() if value is not None} | more


CASES = {
    "plain": (told(400, 30, 430), (400, 30)),
    "thought inside": (told(400, 1530) | THOUGHT, (400, 1530)),
    "thought in the total alone": (told(400, 30, 1930), (400, 1530)),
    "thought beside": (told(400, 30, 1930) | THOUGHT, (400, 1530)),
    "thought beside, no total": (told(400, 30) | THOUGHT, (400, 1530)),
    "nothing visible": (told(400, 0, 1900) | THOUGHT, (400, 1500)),
    "floats": (told(400.0, 1530.0, 1930.0), (400, 1530)),
    "texts": (told("400", "30"), (400, 30)),
    "null": (told(400, None, 1930, completion_tokens=None), (400, 1530)),
    "negative": (told(400, -3), (None, None)),
    "no answer's": (told(400, None), (None, None)),
    "absurd": (told(400, 1e300), (None, None)),
    "none": (None, (None, None)),
    "a list": ([400, 30], (None, None)),
    "zeros": (told(0, 0, 0), (None, None)),
    "hits and misses": (told(400, 30, prompt_cache_hit_tokens=100, prompt_cache_miss_tokens=300), (400, 30)),
    "Anthropic's names": (
        {"input_tokens": 300, "cache_read_input_tokens": 100, "output_tokens": 30},
        (400, 30),
    ),
}


def reply(usage, text="4"):
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
    return read_body(json.dumps(body))


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_that_are_billed(case):
    usage, expected = CASES[case]
    found = reply(usage)
    assert (found.input_tokens, found.output_tokens) == expected


def test_no_more_is_cached_than_was_asked():
    found = reply(
        {"prompt_tokens": 400, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 900}}
    )
    assert found.cached_tokens == 400
    assert Price(2, 4, 1).of(found) == pytest.approx((400 * 1 + 3 * 4) / 1e6)


def test_what_the_server_charges_goes_before_the_table():
    assert Price(2, 4, 1).of(reply(told(400, 3, cost=0.25))) == 0.25
    assert Price(2, 4, 1).of(reply(told(400, 3, cost=0))) > 0
    assert Price(2, 4, 1).of(reply(None)) is None


NUMBERS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.none(), max_size=1)
)
NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        DETAILS,
        "cost",
        "input_tokens",
    ]
)


@given(st.dictionaries(NAMES, NUMBERS | st.dictionaries(NAMES, NUMBERS)))
def test_whatever_stands_there_is_a_number_or_unknown(usage):
    found = usage_of({"usage": usage}, answered=True)
    for value in (found.input, found.output, found.usd):
        assert value is None or 0 <= value < math.inf
    assert found.cached <= (found.input or 0)


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3), (2.2, 3), ("7", 7), (True, None), ("x", None), (float("nan"), None)]
)
def test_counts(value, number):
    assert count(value) == number


@pytest.mark.parametrize("price", [{"input": -1}, {"output": float("nan")}, {"cached": float("inf")}])
def test_a_price_below_nothing_is_none(price):
    with pytest.raises(SettingsError, match="A price of"):
        Price(**({"input": 1.0, "output": 1.0, "cached": 1.0} | price))


def test_a_cap_of_nothing_lets_nothing_pass():
    assert not Budget(0).fits(1e-9)
    for amount in (-1, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="no amount of 0 or more"):
            Budget(amount)
