"""`dfilter judge read` shows how replies are read: every form of file, every kind of judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dfilter.errors import InputError, SettingsError
from dfilter.llm.cli import judge
from dfilter.llm.read_replies import read_replies, reader_of

COMPLETION = {"choices": [{"message": {"content": "Score:\n4"}, "finish_reason": "length"}]}
WHOLE = {"choices": [{"message": {"content": "Score: 4"}, "finish_reason": "stop"}]}


def read(*words: str, given: str = "") -> Result:
    return CliRunner().invoke(judge, ["read", *words], input=given, catch_exceptions=False)


def values(text: str, template: str = "accuracy") -> list[float | None]:
    return [one.table()["value"] for one in read_replies(text, reader_of(template))]  # type: ignore[misc]


def test_lines_of_every_form_are_read(tmp_path: Path) -> None:
    lines = [
        "4.5",
        json.dumps({"text": "4\nBecause."}),
        json.dumps({"reply": "Score: 3"}),
        json.dumps({"content": [{"type": "thinking", "thinking": "5"}, {"type": "text", "text": "2"}]}),
        json.dumps({"text": "4", "finish_reason": "length"}),
        json.dumps(COMPLETION),
        json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": WHOLE}}),
        json.dumps("1\nBecause."),
        '{"score": 4, "reason": "it is what the judge said"}',
        "",
        "The maximum score is 5.",
    ]
    path = tmp_path / "replies.jsonl"
    path.write_text("\n".join(lines))
    found = read(str(path), "--json")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["value"] for row in rows] == [4.5, 4, 3, 2, None, None, 4, 1, 4, None]
    assert [row["number"] for row in rows] == list(range(1, 11))
    assert [row["status"] for row in rows][4:6] == ["truncated", "truncated"]
    assert rows[-1]["reason"]
    assert "10 replies: 7 ok, 2 truncated, 1 unparsed." in found.stderr
    shown = read(str(path)).stdout
    assert "10 replies: 7 ok, 2 truncated, 1 unparsed." in shown
    assert "unparsed   The maximum score is 5.  (no score understood" in shown


def test_one_completion_and_an_array_are_read_whole() -> None:
    assert values(json.dumps(WHOLE, indent=2)) == [4]
    assert values(json.dumps(["4", {"text": "Score: 3"}, WHOLE], indent=2)) == [4, 3, 4]
    assert values('{"score": 4,\n "out_of": 5}') != []


def test_the_template_says_what_is_read(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{instruction}\n{response}\nFrom 1 to 10.")
    for words, said, value in (
        (["--template", "clarity"], "Clarity: 3", 3),
        (["--template", "clarity"], "Accuracy: 3", None),
        (["--template", str(own), "--scale", "1-10"], "Score: 8/10", 8),
        (["--template", str(own), "--scale", "1-10"], "0", None),
        (["--template", "pairwise"], "8/10, 6/10", 2),
        (["--kind", "pair"], "8 6", 2),
        (["--kind", "pair", "--template", str(own), "--scale", "1-5"], "5/5 3/5", 2),
        (["--template", "likert"], "6", 6),
        (["--template", "quality"], "Grade: pass", 0.5),
        (["--template", "safety"], "unsafe", 0),
        (["--kind", "grade"], "7", None),
        (["--kind", "grade", "--scale", "1-10"], "7", 7),
        (["--kind", "grade", "--scale", "1-10"], "6.5", None),
    ):
        (row,) = [json.loads(line) for line in read("-", "--json", *words, given=said).stdout.splitlines()]
        assert row["value"] == value, (words, said)


def test_what_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    for scale in ("5", "5-0", "0-500", "a-b"):
        with pytest.raises(SettingsError, match="expected LOW-HIGH"):
            reader_of("accuracy", scale=scale)
    with pytest.raises(SettingsError, match="no template 'nobody' for a pair"):
        reader_of("nobody", "pair")
    with pytest.raises(SettingsError, match="no judge template named 'acuracy'"):
        reader_of("acuracy")
    with pytest.raises(InputError, match="cannot be read as text"):
        read(str(tmp_path / "none.txt"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as text"):
        read(str(tmp_path / "bytes"))


def test_a_completion_that_is_none_has_failed_and_the_rest_is_read() -> None:
    found = read("-", given='{"text": "4"}\n{"choices": []}\n{"text": 4}\n3')
    assert "(the body holds no choices)" in found.stdout
    assert "4 replies: 2 ok, 2 failed." in found.stdout


def test_what_drives_a_terminal_is_shown_escaped() -> None:
    assert "\x1b" not in read("-", given='{"text": "\\u001b[2J4"}').stdout
