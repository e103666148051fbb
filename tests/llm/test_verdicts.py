"""The rules of blame by themselves: what a failure counts for, and when a verdict is due."""

from __future__ import annotations

import random
from itertools import count

import pytest

from dfilter.llm.blame import ALIKE, DOWN, FALLS, OTHERS, REFUSED, Blame, Held
from dfilter.llm.faults import Fault
from dfilter.llm.limits import BACKOFF_CAP, Gate
from dfilter.llm.work import Job

NUMBERS = count()


def job(**more: bool) -> Job:
    return Job(next(NUMBERS).to_bytes(16, "big"), b"", 0, 0.0, [0], **more)


def held(words: str, at: float = 0.0) -> Held:
    return Held(job(), Fault("400", "refused", words), 0, None, at)


def test_different_rows_that_fail_one_after_the_other_tell_of_the_server() -> None:
    blame = Blame(8)
    assert [blame.failed(job()) for _ in range(DOWN)] == [False] * (DOWN - 1) + [True]
    blame = Blame(8)
    assert not any(blame.failed(job(known=True)) for _ in range(50))  # they failed in an earlier run
    one = job()
    assert not any(blame.failed(one) for _ in range(50))  # the same row again and again
    for _ in range(50):
        assert not blame.failed(job())
        blame.succeeded(0.0)


def test_what_failed_when_the_server_went_away_is_forgiven_and_what_failed_before_is_not() -> None:
    blame, early, late = Blame(8), job(), job()
    blame.failed(early)
    blame.succeeded(0.0)
    blame.failed(late)
    blame.failed(late)
    blame.failed(early)
    blame.fell()
    assert (early.tries, late.tries) == (1, 0)
    assert (early.falls, late.falls) == (1, 1)


def test_a_row_is_broken_when_enough_others_succeeded_since_it_first_failed() -> None:
    blame, row = Blame(3), job()
    for others in (0, OTHERS - 1):
        row.tries, row.before = 0, -1
        for _ in range(3):
            blame.failed(row)
        for _ in range(others):
            blame.succeeded(0.0)
        assert blame.verdict(row, late=False) == "suspect"
    blame.succeeded(0.0)
    assert blame.verdict(row, late=False) == "broken"
    row.tries = 2
    assert blame.verdict(row, late=False) == "again"
    assert blame.verdict(row, late=True) == "broken"
    row.falls = FALLS
    assert blame.verdict(row, late=False) == "suspect"


def test_a_suspect_gets_one_more_try_when_enough_others_succeeded() -> None:
    blame, row = Blame(3), job()
    for _ in range(3):
        blame.failed(row)
    blame.suspects.append((row, Fault("500", "retry", "boom")))
    due = [blame.succeeded(0.0)[1] for _ in range(OTHERS)]
    assert due[:-1] == [[]] * (OTHERS - 1)
    assert (due[-1], blame.suspects, row.tries) == ([row], [], 2)


def test_a_refusal_is_its_rows_own_after_a_success_that_was_sent_later() -> None:
    blame = Blame(8)
    blame.refused(held("no", at=10.0))
    assert blame.succeeded(9.0) == ([], [])  # sent before: a model that was taken away since would show it
    (released,), _ = blame.succeeded(11.0)
    assert released.fault.sentence == "no"
    assert not blame.held


def test_rows_refused_alike_one_after_the_other_are_a_settings_fault() -> None:
    blame = Blame(8)
    said = [blame.refused(held(f"prompt {i} is not allowed")) for i in range(ALIKE)]
    assert said == [False] * (ALIKE - 1) + [True]
    blame = Blame(8)
    words = "abcdefghijklmnopqrstuvwxyz"
    unlike = [blame.refused(held(f"no {words[i]}")) for i in range(REFUSED)]
    assert unlike == [False] * (REFUSED - 1) + [True]
    blame = Blame(8)
    for _ in range(50):
        assert not blame.refused(held("no", at=1.0))
        blame.succeeded(0.0)


def test_pauses_are_no_failures_while_a_limit_lets_everybody_through() -> None:
    blame, row = Blame(8), job()
    assert {blame.told(row, last=False) for _ in range(100)} == {"again"}
    for _ in range(OTHERS * 8):
        blame.succeeded(0.0)
    assert blame.told(row, last=False) == "broken"
    alone = job()
    assert [blame.told(alone, last=True) for _ in range(8)][-1] == "suspect"


def _gate() -> Gate:
    return Gate(100, 3600.0, 0.5, alone=False, draw=random.Random(1))


def test_a_server_that_is_down_is_tried_by_one_request_after_growing_waits() -> None:
    gate, now, waits = _gate(), 100.0, []
    gate.failed(now, now - 1, strain=True)
    for _ in range(300):
        gate.fall(now)
        waits.append(gate.paused_until - now)
        now = gate.paused_until
        gate.running = 0
        assert gate.delay(now) == 0.0
        gate.running = 1
        assert gate.delay(now) == float("inf")
    assert max(waits) <= BACKOFF_CAP
    assert sum(waits[-200:]) / 200 == pytest.approx(BACKOFF_CAP / 2, rel=0.15)
    assert gate.silent(now) == pytest.approx(now - 100.0)
    gate.running = 0
    gate.succeeded(now)
    assert (gate.down_since, gate.silent(now), gate.delay(now)) == (None, 0.0, 0.0)
    assert gate.paused_total == pytest.approx(now - 100.0)  # it counts against no row


def test_only_pauses_without_a_time_count_as_silence() -> None:
    gate = _gate()
    gate.rejected(0.0, 500.0)
    assert gate.silent(500.0) == 0.0
    gate.rejected(500.0, None)
    assert gate.silent(520.0) == pytest.approx(20.0)


def test_a_burst_of_rejections_is_one() -> None:
    gate = _gate()
    for _ in range(64):
        gate.rejected(10.0, None, sent=9.0)
    assert gate.rejections == 1
    gate.rejected(12.0, None, sent=11.0)
    assert gate.rejections == 2
