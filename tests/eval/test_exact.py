"""Exact match: the comparison by a table, the evaluation with a model that is told what to say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.errors import InputError
from dfilter.eval import exact
from dfilter.eval.generation import Answer, Decoding
from dfilter.models import resolve

RIGHT = [
    ("46", "46"),
    ("That gives 46.", "46"),
    ("So the answer is **46**.", "46"),
    ('The word is "Lamp".', "lamp"),
    ("total:\n1,234", "1234"),
    ("The oldest is\u00a0Hana", "Hana"),
    ("Temperature: -4", "-4"),
    ("half, that is 0.5", "0.5"),
    ("Monday", "Mon\nMonday"),
]
WRONG = [
    ("146", "46"),
    ("46 apples", "46"),
    ("0.46", "46"),
    ("-46", "46"),
    ("It is not 46, but 47", "46"),
    ("", "46"),
    ("unlamp", "lamp"),
]


@pytest.mark.parametrize(("said", "answer"), RIGHT)
def test_right_at_the_end(said, answer):
    assert exact.is_right(said, answer)


@pytest.mark.parametrize(("said", "answer"), WRONG)
def test_wrong_at_the_end(said, answer):
    assert not exact.is_right(said, answer)


def test_the_other_ways_to_match():
    assert exact.is_right("46 apples", "46", "contains")
    assert not exact.is_right("146 apples, 46.5 pears", "46", "contains")
    assert not exact.is_right("It is 46.", "46", "equals")
    assert exact.is_right(" 46. ", "46", "equals")
    assert exact.is_right("first 12, then 46 apples", "46.0", "number")
    assert not exact.is_right("first 46, then 12", "46", "number")
    assert not exact.is_right("none", "46", "number")


@given(st.text(max_size=30))
def test_an_answer_is_right_when_it_is_said(text):
    if exact.normalised(text) and len(text.splitlines()) == 1:
        assert exact.is_right(text, text, "equals")


def test_one_value_per_prompt(tmp_path, monkeypatch):
    path = tmp_path / "q.jsonl"
    lines = [{"id": i, "prompt": f"question {i}", "answer": str(i)} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    said = ["It is 0", "2", "", "3."]
    answers = [Answer(text, cut=not text.endswith(".")) for text in said]
    monkeypatch.setattr(exact, "answer", lambda model, prompts, decoding, seed: answers)
    found = exact.Exact(str(path)).evaluate(tmp_path)
    assert found.values.tolist() == [1, 0, 0, 1]
    assert found.prompts == ("q/0", "q/1", "q/2", "q/3")
    assert found.facts["silent"] == 1
    assert (found.facts["cut"], found.facts["answers"]) == (3, 4)
    assert found.facts["bounds"] == [0, 1]


def test_a_prompt_without_answer_is_refused_before_anything_is_generated(tmp_path, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "answer": " "}')
    monkeypatch.setattr(exact, "answer", lambda *a, **k: pytest.fail("generated"))
    with pytest.raises(InputError, match="no answer in column 'answer'"):
        exact.Exact(str(tmp_path / "q.jsonl")).evaluate(tmp_path)


def test_end_to_end_with_a_tiny_model(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"say {i}", "answer": str(i)}) for i in range(6)))
    found = exact.Exact(str(path), decoding=Decoding(max_new_tokens=4)).evaluate(resolve("tiny").path)
    assert found.values.shape == (6,)
