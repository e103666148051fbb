"""Mode ``expected`` with models that begin their answers with blank tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dfilter.errors import SettingsError
from dfilter.llm.judge import Judge, rate
from dfilter.llm.session import open_session
from dfilter.testing import Say, ScriptedServer
from dfilter.types import Example, Message

FAST = {"first_wait": 0.01, "longest_pause": 0.05}
SCORE = {"4": 0.75, "2": 0.25}
FIRST = {  # what stands before the score, with its probability
    "a piece": {"▁": 0.99, "▁The": 0.01},
    "a line end": {"\n": 0.99, "3": 0.002},
    "a piece or a score": {"▁": 0.6, "4": 0.33, "5": 0.05},
    "nothing": {"": 0.99, "4": 0.01},
    "an opening mark": {"**": 0.9, "4": 0.1},
}


def rows(n: int, start: int = 0) -> list[Example]:
    return [
        Example(str(i), (Message("user", f"Question {i}?"), Message("assistant", f"Answer {i}.")), {})
        for i in range(start, start + n)
    ]


def is_probe(body: Mapping[str, Any]) -> bool:
    return "digit 3" in body["messages"][-1]["content"]


def model(*tokens: Mapping[str, float]) -> Callable[[Mapping[str, Any]], Say]:
    """A model that says these tokens, as far as it is let."""

    def script(body: Mapping[str, Any]) -> Say:
        said = tokens[: body["max_tokens"]]
        text = "".join(max(tops, key=tops.__getitem__) for tops in said)
        return Say(text, tokens=said, finish="length" if len(said) < len(tokens) else "stop")

    return script


def asked(server: ScriptedServer, wanted: list[Example]) -> tuple[list[float], list[int]]:
    """Return the ratings, and the limit of each question that was sent for them."""
    server.log.clear()
    judge = Judge(model="m", base_url=server.url, name="scripted", mode="expected", **FAST)  # type: ignore[arg-type]
    with open_session(judge.server) as session:
        found = rate(wanted, judge, session=session)
    return found["value"].tolist(), [e.body["max_tokens"] for e in server.log if not is_probe(e.body)]


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_the_score_behind_blank_tokens_is_read(first: Mapping[str, float]) -> None:
    with ScriptedServer(model(first, SCORE, {"\n": 1.0})) as server:
        values, limits = asked(server, rows(12))
        assert values == pytest.approx([3.5] * 12)  # 0.75 x 4 + 0.25 x 2
        assert limits == [5] * 12
        values, limits = asked(server, rows(12))  # what was learnt names no other judge
        assert (values, limits) == (pytest.approx([3.5] * 12), [])


def test_who_begins_with_the_score_is_asked_for_one_token() -> None:
    with ScriptedServer(model(SCORE, {"\n": 1.0})) as server:
        values, limits = asked(server, rows(6))
    assert (values, limits) == (pytest.approx([3.5] * 6), [1] * 6)


def test_answers_that_were_paid_for_before_the_blanks_came_stay() -> None:
    with ScriptedServer(model(SCORE)) as server:
        asked(server, rows(6))
        server.script = model(FIRST["a piece"], SCORE)  # another build of the server: not tried anew
        values, limits = asked(server, rows(9))
        assert values == pytest.approx([3.5] * 9)
        assert sorted(limits) == [1] * (len(limits) - 3) + [5] * 3
        assert len(limits) <= 6
        assert asked(server, rows(3, start=9))[1] == [5] * 3  # it is kept


def test_who_says_only_blanks_is_refused_by_the_first_question_with_what_stood_there() -> None:
    with ScriptedServer(model(*[{"▁": 0.9, "▁▁": 0.1}] * 20)) as server:
        with pytest.raises(SettingsError, match=r"within 5 \('▁' 0.90, '▁▁' 0.10 came last\)"):
            asked(server, rows(50))
        assert server.calls == 2
