"""A server that answers with another model than before is found out, by its own word."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dfilter.eval.judging import Wording, ask_judge
from dfilter.llm.grades import OneOf
from dfilter.llm.judge import Judge, rate
from dfilter.llm.server import Server
from dfilter.llm.session import open_session
from dfilter.testing import Heard, Say, ScriptedServer
from dfilter.types import Example, Message


class Loaded:
    """A script like llama.cpp's server: it ignores the asked model and names the file it has loaded."""

    def __init__(self, model: str | None) -> None:
        self.model = model

    def __call__(self, body: Any) -> Say:
        message = {"role": "assistant", "content": "4"}
        reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return Say(
            body=json.dumps(reply | ({"model": self.model} if self.model is not None else {})).encode()
        )


@pytest.fixture(params=["live", "batch"])
def asked(request: pytest.FixtureRequest) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """Ask in a session of its own; return its facts and the warnings."""

    def ask(server: Server, requests: Any) -> tuple[dict[str, Any], list[str]]:
        told = Heard()
        with open_session(server, transport=request.param, progress=told) as session:
            answers = list(session.ask(requests))
        assert all(answer.status == "ok" for answer in answers)
        return session.facts(), told.warnings

    return ask


def test_one_model_is_counted_and_no_word_said(asked: Any, requests: Any, quick: Any) -> None:
    with ScriptedServer(Loaded("a.gguf")) as server:
        settings = quick(server.url, poll_seconds=0.01)
        for size in (20, 30, 30):  # new, some stored, all stored
            facts, warnings = asked(settings, requests(size))
            assert facts["reported_models"] == {"a.gguf": size}
            assert warnings == []


def test_a_new_answer_of_another_model_than_the_stored_ones_is_said_once(
    asked: Any, requests: Any, quick: Any
) -> None:
    script = Loaded("a.gguf")
    with ScriptedServer(script) as server:
        settings = quick(server.url, poll_seconds=0.01)
        asked(settings, requests(20))
        script.model = "b.gguf"
        facts, warnings = asked(settings, requests(50))
        assert facts["reported_models"] == {"a.gguf": 20, "b.gguf": 30}
        (warning,) = warnings
        assert f"asked for m, {server.url} answers as a.gguf (20 answers), b.gguf (1 answer)." in warning
        assert "judge.name=..." in warning
        apart, warnings = asked(quick(server.url, poll_seconds=0.01, name="b"), requests(50, start=100))
        assert apart["reported_models"] == {"b.gguf": 50}
        assert warnings == []


def test_two_models_within_a_run_are_said(asked: Any, requests: Any, quick: Any) -> None:
    def script(body: Any) -> Say:
        row = body["messages"][-1]["content"].split()[1]
        return Loaded("b.gguf" if row == "7" else "a.gguf")(body)

    with ScriptedServer(script) as server:
        facts, warnings = asked(quick(server.url, poll_seconds=0.01), requests(10))
    assert facts["reported_models"] == {"a.gguf": 9, "b.gguf": 1}
    assert len(warnings) == 1


@pytest.mark.parametrize("nothing", ["", None])
def test_a_server_that_says_nothing_mixes_nothing(
    asked: Any, requests: Any, quick: Any, nothing: str | None
) -> None:
    script = Loaded("a.gguf")
    with ScriptedServer(script) as server:
        settings = quick(server.url, poll_seconds=0.01)
        asked(settings, requests(5))
        script.model = nothing
        facts, warnings = asked(settings, requests(8))
    assert facts["reported_models"] == {"a.gguf": 5, "not reported": 3}
    assert warnings == []


def test_a_judge_in_this_process_reports_itself() -> None:
    row = Example("0", (Message("user", "Add 1 and 2."), Message("assistant", "word")), {})
    judge, told = Judge(model="local:tiny", mode="expected"), Heard()
    for _ in range(2):
        with open_session(judge.server, progress=told) as session:
            rate([row], judge, session=session)
            assert session.facts()["reported_models"] == {"local:tiny": 1}
    assert told.warnings == []


def test_a_judged_evaluation_says_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    script, reader = Loaded("a.gguf"), OneOf((("4", 4.0),), "likert")
    wording = Wording("own", "{conversation}")
    questions = [[{"role": "user", "content": f"Grade {n}."}] for n in range(12)]
    with ScriptedServer(script) as at:
        server = Server("m", base_url=at.url)
        found, reported = ask_judge(server, questions[:4], reader, wording)
        assert (found.tolist(), reported) == ([4.0] * 4, {"a.gguf": 4})
        assert capsys.readouterr().err == ""
        script.model = "b.gguf"
        found, reported = ask_judge(server, questions, reader, wording)
    assert reported == {"a.gguf": 4, "b.gguf": 8}
    assert np.isfinite(found).all()
    assert capsys.readouterr().err.count("Warning: asked for m") == 1
