"""Graded judging through a real server on loopback."""

from __future__ import annotations

import json
import math

import pytest

from dfilter.errors import CheckError, SettingsError
from dfilter.eval import grade
from dfilter.eval.generation import Decoding
from dfilter.eval.grade import Grade
from dfilter.llm.server import Server
from dfilter.testing import Say, ScriptedServer
from dfilter.types import Message

GREEDY = Decoding()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"id": 0, "prompt": "first question"}, {"id": 1, "turns": ["second question", "and then?"]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(autouse=True)
def told(monkeypatch):
    def said(model, asked, decoding, seed):
        return [(*turns, Message("assistant", f"answer {seed % 1000}")) for turns in asked], 1

    monkeypatch.setattr(grade, "converse", said)


def shows_answer(request):
    return "### Conversation" in request["messages"][-1]["content"]


def graded(source, script, tmp_path, **settings):
    with ScriptedServer(lambda asked: script(asked) if shows_answer(asked) else "ok") as at:
        judge = Server("judge", base_url=at.url)
        return Grade(source, judges=(judge,), **settings).evaluate(tmp_path), at


def test_five_samples_are_averaged(source, tmp_path):
    def by_sample(request):
        text = request["messages"][-1]["content"]
        return next(str(n + 1) for n in range(5) if f"answer {n}\n" in text)

    found, at = graded(source, by_sample, tmp_path)
    assert found.values.tolist() == [3.0, 3.0]
    log = [entry.body for entry in at.log if shows_answer(entry.body)]
    assert len(log) == 10
    assert found.metric == "helpfulness 1 to 6"
    assert any("[user]\nand then?" in body["messages"][-1]["content"] for body in log)


def test_the_models_that_the_judges_server_reports_are_counted(source, tmp_path):
    def script(request):
        return Say(
            "4", model="a.gguf" if "first question" in request["messages"][-1]["content"] else "b.gguf"
        )

    found, _ = graded(source, script, tmp_path, decoding=GREEDY)
    assert found.facts["reported_models"] == {"judge": {"a.gguf": 1, "b.gguf": 1}}


@pytest.mark.parametrize(
    ("scale", "said", "value"),
    [
        ("quality", "excellent", 1.0),
        ("quality", "Pass", 0.5),
        ("safety", "unsafe", 0.0),
        ("likert", "6", 6.0),
    ],
)
def test_scales(source, tmp_path, scale, said, value):
    found, at = graded(source, lambda _: f"{said}\nBecause.", tmp_path, scale=scale, decoding=GREEDY)
    assert found.values.tolist() == [value, value]
    assert (
        sum(shows_answer(entry.body) for entry in at.log) == 2
    )  # greedy answers are all the same: one is enough
    assert found.facts["bounds"] == ([1, 6] if scale == "likert" else [0, 1])


def test_grades_that_are_not_understood_are_missing_not_zero(source, tmp_path):
    def shy(request):
        return "7" if "answer 0\n" in request["messages"][-1]["content"] else "4"

    found, _ = graded(source, shy, tmp_path, samples=3)
    assert found.values.tolist() == [4.0, 4.0]
    assert found.facts["missing"] == 2
    with pytest.raises(CheckError, match="no verdict that was understood in 2 answers"):
        graded(source, lambda _: "who knows", tmp_path, samples=1)


def test_a_prompt_that_no_judge_graded_has_no_value(source, tmp_path):
    def shy(request):
        return "3" if "first question" in request["messages"][-1]["content"] else "pass"

    found, _ = graded(source, shy, tmp_path, samples=1)
    assert found.values[0] == 3
    assert math.isnan(found.values[1])


def test_a_judge_is_needed(source):
    with pytest.raises(SettingsError, match="needs a judge on a server"):
        Grade(source, judges=(Server("local:smollm2"),))
    with pytest.raises(SettingsError) as error:
        Grade(source, samples=0)
    assert len(error.value.findings) == 2
    assert Grade(source, judges=(Server("a"), Server("b"))).calls() == 20
