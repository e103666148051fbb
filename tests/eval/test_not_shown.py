"""A prompt that a model's template cannot show costs its own value and nobody else's."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from dfilter.errors import InputError
from dfilter.eval import generation as g
from dfilter.eval.exact import Exact
from dfilter.eval.grade import Grade
from dfilter.eval.pairwise import Pairwise
from dfilter.llm.server import Server
from dfilter.models import load_tokenizer, resolve
from dfilter.testing import ScriptedServer
from dfilter.types import Message

ASKED = [(Message("user", text),) for text in ("hello", "add 2 and 3")]
SHORT = g.Decoding(max_new_tokens=6)
WARM = g.Decoding(max_new_tokens=6, temperature=0.5)

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def without_system(tmp_path):
    """The tiny model with a template that knows no system turn."""
    tiny = resolve("tiny").path
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("seal.json", "chat_template.jinja"))
    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(folder)
    return folder


def test_a_prompt_that_cannot_be_shown_is_refused_alone(without_system):
    system = Message("system", "be kind")
    said = g.generate(without_system, [*ASKED, (system, *ASKED[0])], SHORT)
    assert said[:-1] == g.generate(without_system, ASKED, SHORT)
    assert isinstance(said[-1], g.Refusal)
    assert "no system here" in said[-1].reason
    asked = [(*ASKED[0], Message("user", "and")), (system, *ASKED[0])]
    talks, _ = g.converse(without_system, asked, SHORT)
    assert [isinstance(talk, g.Refusal) for talk in talks] == [False, True]
    assert g.not_shown(["a", "b"], talks) == {"not_shown": {"b": said[-1].reason}}
    with pytest.raises(InputError, match=r"none of 1 prompts.*no system here"):
        g.not_shown(["b"], talks[1:])


def test_evaluations_name_a_prompt_that_cannot_be_shown_and_give_it_no_value(without_system, tmp_path):
    system = {"role": "system", "content": "be kind"}
    asked = [{"role": "user", "content": "what now"}]
    lines = [
        {"id": "plain", "messages": asked, "answer": "x"},
        {"id": "system", "messages": [system, *asked], "answer": "x"},
        {"id": "long", "prompt": "word " * 9_999, "answer": "x"},
    ]
    source = tmp_path / "asked.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    theirs = tmp_path / "answers.jsonl"
    theirs.write_text("\n".join(json.dumps({"id": line["id"], "output": "other"}) for line in lines))
    wording = tmp_path / "wording.txt"
    wording.write_text("{conversation}")
    with ScriptedServer(lambda request: "5 4" if "other" in str(request) else "5") as at:
        judge = Server(model="judge", base_url=at.url, name="judge")
        made = [
            Exact(str(source), decoding=SHORT),
            Grade(str(source), (judge,), samples=2, template=str(wording), decoding=WARM),
            Pairwise(str(source), (judge,), against=str(theirs), decoding=SHORT),
        ]
        for evaluator in made:
            found = evaluator.evaluate(without_system)
            assert evaluator.shown_to(str(without_system)) == 1
            assert list(found.prompts) == ["asked/plain", "asked/system", "asked/long"]
            assert np.isnan(found.values[1:]).all()
            assert set(found.facts["not_shown"]) == {"asked/system", "asked/long"}
            assert "no system here" in found.facts["not_shown"]["asked/system"]
            assert "no room for an answer" in found.facts["not_shown"]["asked/long"]
            assert found.facts["answers"] == (2 if isinstance(evaluator, Grade) else 1)
            assert found.facts["cut"] <= found.facts["answers"]
            assert len(found.facts.get("length_difference", (0, 0, 0))) == 3
        assert not np.isnan(made[0].evaluate(without_system).values[0])


def test_a_prompt_that_one_sample_could_show_is_no_refusal(without_system, tmp_path, monkeypatch):
    """Of sampled conversations one may outgrow the window, and another not."""
    from dfilter.eval import grade

    source = tmp_path / "asked.jsonl"
    source.write_text(json.dumps({"id": "one", "prompt": "hello"}))
    wording = tmp_path / "wording.txt"
    wording.write_text("{conversation}")
    talks = iter([[g.Refusal("too long")], [(*ASKED[0], Message("assistant", "hi"))]])
    monkeypatch.setattr(grade, "converse", lambda *_, **__: (next(talks), 0))
    with ScriptedServer(lambda _: "5") as at:
        judge = Server(model="judge", base_url=at.url, name="judge")
        made = Grade(str(source), (judge,), samples=2, template=str(wording), decoding=WARM)
        found = made.evaluate(without_system)
    assert found.values.tolist() == [5]
    assert "not_shown" not in found.facts
    assert found.facts["answers"] == 1
