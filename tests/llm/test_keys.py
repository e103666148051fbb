"""What was paid for is found again: ratings keep their keys, and yesterday's ledger serves today's judge."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dfilter.errors import CheckError
from dfilter.eval.judging import Wording, ask_judge
from dfilter.llm.answers import TextReader
from dfilter.llm.grades import OneOf
from dfilter.llm.judge import Judge, rate
from dfilter.llm.server import Server
from dfilter.llm.session import ledger_path, open_session
from dfilter.testing import ScriptedServer
from dfilter.types import Example, Message

OWN = "--- system\nYou rate.\n--- user\n{instruction}\n{input}\n{response}\nFrom {low} to {high}.\n"
# Of all ratings below; a change makes every rating that was ever paid for unfindable.
KEYS = "db53c50e20f48e36f197828c3b001d7e06bf265035386a542448d13b1aa5a551"
# The same of evaluations.
VERDICTS = "ded711da0ce1327ca4c850948e5a55236f29e1c4532afb84fd722896a61dc744"
LEDGER = Path(__file__).with_name("ledger_1.sql")
PLACES = ("", "http://127.0.0.1:8000/v1", "https://judge.example/v1/")


def rows(n: int) -> list[Example]:
    return [
        Example(
            f"row {i}",
            (
                *((Message("system", "Be brief."),) if i % 3 == 0 else ()),
                Message("user", f"Question {i}?\n\nContext ü {i}"),
                Message("assistant", f"Answer {i}."),
            ),
            {},
        )
        for i in range(n)
    ]


def judges(own: Path) -> Iterator[Judge]:
    """Judges with and without a name, anywhere, in both modes, with several wordings and scales."""
    for name, place, mode, template in itertools.product(
        ("", "mine"), PLACES, ("text", "expected"), ("accuracy", "clarity", str(own))
    ):
        made = Judge(model="m", name=name, base_url=place, mode=mode, template=template)
        yield made
        yield replace(made, model="org/other-model", low=1, high=9, temperature=0.7, max_tokens=64, repeat=3)


def test_ratings_keep_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.txt").write_text(OWN)
    digest, seen = hashlib.sha256(), set()
    for address in ("", "http://10.0.0.7:9000/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        for judge in judges(tmp_path / "own.txt"):
            keys = [judge.key(row, repeat) for row in rows(6) for repeat in range(3)]
            digest.update(b"".join(keys))
            seen.update(keys)
    assert len(seen) >= 1000
    assert digest.hexdigest() == KEYS


def test_verdicts_of_evaluations_keep_their_keys() -> None:
    questions = [[{"role": "user", "content": f"Grade ü {n}."}] for n in range(20)]
    with ScriptedServer("4") as at:
        for name in ("mine", "other"):
            server = Server("m", base_url=at.url, name=name)
            for reader, temperature in ((OneOf((("4", 4.0),), "likert"), 0.0), (TextReader(), 0.7)):
                with suppress(CheckError):
                    ask_judge(server, questions, reader, Wording("own", "{conversation}"), temperature)
    with sqlite3.connect(ledger_path()) as db:
        keys = sorted(key for (key,) in db.execute("SELECT key FROM answer"))
    db.close()
    assert len(keys) == 80
    assert hashlib.sha256(b"".join(keys)).hexdigest() == VERDICTS


def test_a_named_judge_is_the_same_at_any_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = rows(1)
    named, keys = Judge(model="m", name="mine"), set()
    for place in PLACES:
        for address in PLACES:
            monkeypatch.setenv("OPENAI_BASE_URL", address)
            keys.add(replace(named, base_url=place).key(row))
    assert keys == {named.key(row)}
    assert Judge(model="m", base_url=PLACES[1]).key(row) != Judge(model="m", base_url=PLACES[2]).key(row)
    assert Judge(model="m", name="other").key(row) not in keys


def test_concurrency_and_patience_are_no_part_of_a_judge() -> None:
    (row,) = rows(1)
    made = Judge(model="m", base_url=PLACES[1])
    for change in (
        {"concurrency": 3},
        {"attempts": 2},
        {"key_env": "OTHER"},
        {"repeat": 4},
        {"min_mass": 0.1},
    ):
        assert replace(made, **change).key(row) == made.key(row)


@pytest.mark.parametrize("mode", ["text", "expected"])
def test_a_ledger_of_an_older_version_answers_todays_judge(mode: str) -> None:
    """It was written by another program, at another address; nobody listens at this one."""
    path = ledger_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        db.executescript(LEDGER.read_text(encoding="utf-8"))
    db.close()
    judge = Judge(model="m", name="mine", base_url="http://127.0.0.1:9/v1", mode=mode, repeat=2)
    with open_session(judge.server) as session:
        found = rate(rows(2), judge, session=session)
        facts = session.facts()
    assert (facts["calls"], facts["stored"], facts["reported_models"]) == (0, 4, {"loaded.gguf": 4})
    assert found["value"].tolist() == pytest.approx([1.0, 2.0])
    assert found["repeats"].tolist() == [2, 2]
