"""The ledger on the command line, and the price table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dfilter.errors import InputError, SettingsError
from dfilter.eval.judging import Wording, ask_judge
from dfilter.llm.answers import Reading, Reply, Request
from dfilter.llm.budget import Budget
from dfilter.llm.cli import judge as group
from dfilter.llm.commands import askers, reparse
from dfilter.llm.judge import Judge, rate
from dfilter.llm.pairs import PairScores
from dfilter.llm.prices import Price, price_of
from dfilter.llm.scores import TextScore
from dfilter.llm.server import Server
from dfilter.llm.session import open_session
from dfilter.llm.tokens import about, at_most
from dfilter.store import home
from dfilter.testing import ScriptedServer
from dfilter.types import Example, Message


@dataclass(frozen=True)
class Better:
    """A parser that has learnt to read stars."""

    name: str = "score/999"

    def read(self, reply: Reply) -> Reading:
        stars = reply.text.count("*")
        return Reading("ok", float(stars)) if stars else Reading("unparsed")


@dataclass(frozen=True)
class Fixed:
    """A reader that always understands the same."""

    reading: Reading
    name: str

    def read(self, reply: Reply) -> Reading:
        return self.reading


def rows(n: int) -> list[Example]:
    return [Example(str(i), (Message("user", f"Q{i}"), Message("assistant", "A")), {}) for i in range(n)]


def test_a_better_parser_reads_stored_answers_for_free() -> None:
    with ScriptedServer("****") as server:
        judge = Judge(model="m", base_url=server.url, name="scripted")
        with open_session(judge.server) as session:
            assert rate(rows(6), judge, session=session)["status"].tolist() == [1] * 6
        calls = server.calls
        (would,) = reparse(write=False, readers=[Better()])
        assert would.changed == {"unparsed -> ok": 6}
        (did,) = reparse("m", readers=[Better()])
        assert did.changed == would.changed
        assert reparse("another") == []
        with open_session(judge.server) as session:
            assert rate(rows(6), judge, session=session)["value"].tolist() == [4.0] * 6
            assert session.facts()["read_by_another_version"] == 6
        assert server.calls == calls
    (asked,) = askers()
    assert (asked.answers, asked.spec["model"], asked.spec["server"]) == (6, "m", "scripted")
    # Today's parser takes it back, and the command says so.
    result = CliRunner().invoke(group, ["reparse", "--dry-run"])
    assert "would change: 6 ok -> unparsed" in result.output
    assert "6 answers" in CliRunner().invoke(group, ["list"]).output


def test_verdicts_of_evaluations_are_read_again_too() -> None:
    questions = [[{"role": "user", "content": f"Compare {n}"}] for n in range(3)]
    with ScriptedServer("8/10\n6/10") as server:
        at = Server("m", base_url=server.url, name="scripted")
        with open_session(at) as session:  # as an older version kept it
            asker = {"kind": "evaluation", "model": "m", "template": "pairwise"}
            requests = [Request(bytes([n]) * 16, q, {}) for n, q in enumerate(questions)]
            wrong = Fixed(Reading("ok", -2.0), "pair/1")
            assert [a.value for a in session.ask(requests, reader=wrong, asker=asker)] == [-2.0] * 3
    (would,) = reparse(write=False)
    assert would.changed == {"value": 3}
    reparse()
    (did,) = reparse()
    assert did.changed == {}


def test_a_stored_verdict_of_an_older_reader_is_read_again_when_it_is_asked_for() -> None:
    questions = [[{"role": "user", "content": "Compare"}]]
    with ScriptedServer("8/10\n6/10") as server:
        at = Server("m", base_url=server.url, name="scripted")
        before, _ = ask_judge(at, questions, Fixed(Reading("ok", -2.0), "pair/1"), Wording("pairwise", ""))
        calls = server.calls
        after, _ = ask_judge(at, questions, PairScores(), Wording("pairwise", ""))
        assert server.calls == calls
    assert (before.tolist(), after.tolist()) == ([-2.0], [2.0])


def test_ratings_are_read_again_by_the_criterion_of_their_template() -> None:
    with ScriptedServer("Helpfulness: 5\nAccuracy: 2") as server:
        judge = Judge(model="m", base_url=server.url, name="scripted")
        assert judge.reader == TextScore(0, 5, "accuracy")
        with open_session(judge.server) as session:
            ratings = rate(rows(2), judge, session=session)
        assert ratings["value"].tolist() == [2.0, 2.0]
        assert [asked.changed for asked in reparse(write=False)] == [{}]


def test_without_a_ledger_there_is_a_sentence() -> None:
    with pytest.raises(InputError, match="nothing was ever asked"):
        reparse()


def test_prices_by_hand_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    price = Price(2.0, 8.0, 0.5)
    # 600 fresh at 2, 400 cached at 0.5, 100 out at 8: 0.0012 + 0.0002 + 0.0008
    assert price.cost(1000, 100, 400) == pytest.approx(0.0022)
    assert price.cost(1000, 100, 400, batch=True) == pytest.approx(0.0011)
    assert price.of(Reply("x")) is None
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini") is not None
    assert price_of("somebody/gpt-4o-mini") is None
    home().mkdir(parents=True, exist_ok=True)
    (home() / "prices.toml").write_text(
        'date = "2030-01-01"\n[models]\n"gpt-4o-mini" = { input = 1, output = 2 }\n'
    )
    mine = price_of("gpt-4o-mini")
    assert mine is not None
    assert (mine.input, mine.cached, mine.date) == (1.0, 1.0, "2030-01-01")
    (home() / "prices.toml").write_text("models = 3")
    with pytest.raises(SettingsError, match="price table"):
        price_of("gpt-4o-mini")


@given(st.text(max_size=200))
def test_no_tokenizer_exceeds_the_worst_case(text: str) -> None:
    messages: list[dict[str, str]] = [{"role": "user", "content": text}]
    assert at_most(messages) >= len(text.encode("utf-8", "replace")) + 16
    assert at_most(messages) >= about(messages)


@pytest.mark.parametrize("usd", [-0.01, float("nan"), float("inf")])
def test_a_limit_that_is_no_amount_is_refused(usd: float) -> None:
    with pytest.raises(SettingsError, match="no amount of 0 or more"):
        Budget(usd)
