"""Prompt files of every form that the published sets have, and named sets without a network."""

from __future__ import annotations

import hashlib
import json

import pytest

from dfilter.errors import InputError, ServerError
from dfilter.eval import prompts as p


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": "a"}, [("user", "a")]),
        ({"instruction": "a", "input": "b"}, [("user", "a\n\nb")]),
        ({"instruction": "a", "input": "", "output": "c"}, [("user", "a")]),
        ({"Instruction": "a", "Skill": "Math"}, [("user", "a")]),
        ({"instruction": "a", "instances": [{"input": "b", "output": "c"}]}, [("user", "a\n\nb")]),
        ({"turns": ["a", "b"]}, [("user", "a"), ("user", "b")]),
        ({"conversations": ["a", "b", "c"]}, [("user", "a"), ("assistant", "b"), ("user", "c")]),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            [("user", "a")],
        ),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]},
            [("system", "s"), ("user", "a")],
        ),
    ],
)
def test_every_known_form(tmp_path, row, turns):
    (found,) = p.read_prompts(write(tmp_path / "set.jsonl", [row]))
    assert [(m.role, m.content) for m in found.messages] == turns
    assert found.id == "set/0"


def test_published_sets_have_their_published_sizes(test_data):
    for size, name in ((180, "koala"), (252, "self_instruct"), (80, "vicuna"), (218, "wizardlm")):
        found = p.read_prompts(str(test_data / "prompts" / f"{name}_{size}.jsonl"))
        assert len(found) == size
        assert all(prompt.text.strip() for prompt in found)
    assert len(p.read_prompts(str(test_data / "lima" / "lima_test_prompts.jsonl"))) == 300
    assert sum(known.size for known in p.SETS.values()) == 730


def test_named_sets_are_the_published_bytes(test_data):
    for name, known in p.SETS.items():
        content = (test_data / "prompts" / f"{name.replace('-', '_')}_{known.size}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == known.sha256


def test_sets_are_joined_and_keep_their_names(tmp_path, monkeypatch):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write(one, [{"id": 1, "prompt": "a"}])
    write(two, [{"id": 1, "prompt": "b"}, {"id": 2, "prompt": "A!"}])
    found = p.read_prompts(f"{one}+{two}")
    assert [prompt.id for prompt in found] == ["one/1", "two/1", "two/2"]
    facts = p.shared_facts(found)
    assert facts["sets"] == ["one", "two", "two"]
    assert facts["clusters"] == [0, 1, 0]


def test_answers_come_from_their_column(tmp_path):
    path = write(tmp_path / "q.json", [])
    (tmp_path / "q.json").write_text(
        json.dumps([{"prompt": "a", "answer": 4}, {"prompt": "b", "key": ["x", "y"]}])
    )
    assert [found.answer for found in p.read_prompts(path)] == ["4", ""]
    assert [found.answer for found in p.read_prompts(path, answer="key")] == ["", "x\ny"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no prompts"),
        ('{"prompt": "a"', "neither JSON nor JSONL"),
        ('{"text2": "a"}', "no prompt"),
        ("[1, 2]", "an object was expected"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "repeats 1 prompt ids"),
    ],
)
def test_what_is_no_prompt_file_is_said(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        p.read_prompts(str(tmp_path / "x.jsonl"))
    with pytest.raises(InputError, match="There is no file"):
        p.read_prompts(str(tmp_path / "absent.jsonl"))


class Reply:
    def __init__(self, content):
        self.content = content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read(self, _size):
        return self.content


def test_a_named_set_is_verified_and_kept(monkeypatch):
    content = b'{"id": 1, "prompt": "a"}\n'
    known = p.Published("https://example.org/x", hashlib.sha256(content).hexdigest(), 1)
    monkeypatch.setitem(p.SETS, "vicuna", known)
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: asked.append(url) or Reply(content))
    for _ in range(2):
        assert [prompt.id for prompt in p.read_prompts("vicuna")] == ["vicuna/1"]
    assert asked == ["https://example.org/x"]


def test_a_named_set_that_changed_or_cannot_be_reached_is_refused(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Reply(b"something else"))
    with pytest.raises(ServerError, match="no longer holds"):
        p.read_prompts("koala")

    def down(url, timeout):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", down)
    with pytest.raises(ServerError, match="Give a file of your own"):
        p.read_prompts("koala")
