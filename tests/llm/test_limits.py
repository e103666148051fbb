"""Rates hold in every window, pauses are honoured, and giving up has a reason."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.llm.comeback import come_back, duration
from dfilter.llm.limits import Gate, Rates, Window


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(1, 4), st.floats(0, 2.0), st.floats(0, 1.0)), min_size=1, max_size=60),
)
def test_no_window_on_the_servers_clock_holds_more_than_the_limit(
    limit: int, calls: list[tuple[int, float, float]]
) -> None:
    """Arrivals lie anywhere between sending and answer; every window over them is counted the slow way."""
    window, seconds = Window(limit, 10.0), 10.0
    now, arrivals = 0.0, []
    for amount, latency, where in calls:
        while (wait := window.delay(now, amount)) > 0:
            now += wait
        receipt = window.take(now, amount)
        arrivals.append((now + where * latency, min(amount, limit) if amount <= limit else amount))
        now += latency  # answered before the next is sent: the hardest case for arrival times
        window.settle(now, receipt)
    for at, _ in arrivals:
        inside = [amount for other, amount in arrivals if at - seconds < other <= at]
        assert sum(inside) <= limit or len(inside) == 1  # one request above the limit goes alone


def test_a_window_lets_the_whole_limit_through() -> None:
    window = Window(3, 60.0)
    for _ in range(3):
        assert window.delay(0.0, 1) == 0.0
        window.settle(0.5, window.take(0.0, 1))
    assert window.delay(1.0, 1) == pytest.approx(59.5, abs=0.01)
    assert window.delay(60.6, 1) == 0.0


def test_real_tokens_replace_the_worst_case() -> None:
    rates = Rates(0, 1000)
    receipt = rates.take(0.0, 900)
    assert rates.delay(0.1, 200) > 0
    rates.settle(0.2, receipt, 100)
    assert rates.delay(0.3, 200) == 0.0


def test_limits_are_learnt_only_where_none_is_given_and_only_if_positive() -> None:
    learnt, given_ = Rates(0, 0), Rates(7, 0)
    for text in ("-1", "0", "many"):
        learnt.learn({"x-ratelimit-limit-requests": text})
        assert learnt.requests.limit == 0
    for rates in (learnt, given_):
        rates.learn({"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "3e4"})
    assert (learnt.requests.limit, learnt.tokens.limit) == (500, 30_000)
    assert given_.requests.limit == 7


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "9" * 30}, float("9" * 30)),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, 60.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, 90.0),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m30s"}, None),
    ],
)
def test_retry_after_of_every_kind(headers: dict[str, str], seconds: float | None) -> None:
    assert come_back(headers, "", NOW.timestamp()) == seconds


@given(st.text(max_size=50))
def test_no_header_breaks_the_reading(text: str) -> None:
    for value in (come_back({"retry-after": text}, text, 0.0), duration(text)):
        assert value is None or value >= 0


def _gate(**settings: float) -> Gate:
    base = {"most": 100, "longest_pause": 60.0, "first_wait": 0.5, "alone": False}
    return Gate(**{**base, **settings}, draw=random.Random(1))  # type: ignore[arg-type]


def test_a_429_pauses_everybody_and_a_long_pause_ends_with_one_probe() -> None:
    gate = _gate()
    assert gate.rejected(10.0, 7.0) == 7.0
    assert gate.delay(11.0) == pytest.approx(6.0)
    assert gate.delay(17.0) == 0.0
    gate.running = 1
    assert gate.delay(17.0) == float("inf")  # the probe is out; everybody else waits for it
    gate.succeeded(17.5)
    assert gate.delay(17.5) == 0.0


def test_an_endless_retry_after_is_cut_and_probed() -> None:
    gate = _gate()
    assert gate.rejected(0.0, 1e20) == 60.0
    assert gate.alone


def test_concurrency_grows_until_strain_and_shrinks_once_for_a_burst() -> None:
    gate = _gate()
    gate.running = 100
    for _ in range(200):
        gate.succeeded(1.0)
    assert gate.limit == 100
    for _ in range(50):  # all of them were sent before the first decrease
        gate.failed(2.0, 1.5, strain=True)
    assert gate.limit == pytest.approx(70)
    gate.failed(3.0, 2.5, strain=True)
    assert gate.limit == pytest.approx(49)
