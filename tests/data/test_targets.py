from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfilter.data.targets import load_target, subtask_column
from dfilter.errors import InputError


def test_mmlu_dev_questions_in_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "abstract_algebra_dev.csv").write_text('"1+1, or?",1,2,3,4,B\n', encoding="utf-8")
    (tmp_path / "anatomy.csv").write_text(
        "question,choice0,choice1,choice2,choice3,answer\nHow many?,1,2,3,4,3\n", encoding="utf-8"
    )
    rows = load_target(f"mmlu:{tmp_path}")
    assert rows.column("subtask") == ["abstract_algebra", "anatomy"]
    assert [row.response for row in rows] == ["The answer is B.", "The answer is D."]
    assert rows[0].prompt.endswith("1+1, or?\nA. 1\nB. 2\nC. 3\nD. 4")
    (tmp_path / "bad.csv").write_text("What?,1,2,3,4,7\n", encoding="utf-8")
    with pytest.raises(InputError, match="answer '7'"):
        load_target(f"mmlu:{tmp_path}")


CHAIN = """A warning to crawlers.
-----
Do the sum.

Q: 1+1
A: Let's think. So the answer is 2.

Q: 2+2
A: Let's think.
It is four. So the answer is 4.
"""


@pytest.mark.parametrize("layout", ["text", "json"])
def test_bbh_chains_of_thought_show_the_other_examples_first(tmp_path: Path, layout: str) -> None:
    if layout == "text":
        (tmp_path / "sums.txt").write_text(CHAIN, encoding="utf-8")
    else:
        (tmp_path / "all.json").write_text(json.dumps({"sums": CHAIN}), encoding="utf-8")
    rows = load_target(f"bbh:{tmp_path}")
    assert rows.column("subtask") == ["sums", "sums"]
    assert (
        rows[0].prompt
        == "Do the sum.\n\nQ: 2+2\nA: Let's think.\nIt is four. So the answer is 4.\n\nQ: 1+1\nA:"
    )
    assert [row.response for row in rows][1] == "Let's think.\nIt is four. So the answer is 4."


def test_bbh_examples_without_reasoning(tmp_path: Path) -> None:
    examples = [{"input": f"q{i}", "target": f"a{i}"} for i in range(5)]
    (tmp_path / "task.json").write_text(json.dumps({"examples": examples}), encoding="utf-8")
    rows = load_target(f"bbh:{tmp_path}")
    assert [(row.prompt, row.response) for row in rows] == [("q0", "a0"), ("q1", "a1"), ("q2", "a2")]
    (tmp_path / "task.json").write_text('{"examples": [{"input": "q"}]}', encoding="utf-8")
    with pytest.raises(InputError, match="lacks input or target"):
        load_target(f"bbh:{tmp_path}")


def test_tydiqa_takes_one_question_a_language(tmp_path: Path) -> None:
    asked = [
        {"id": f"{language}-{i}", "question": f"q{i}?", "answers": [{"text": f"{language} {i}"}]}
        for i, language in enumerate(["finnish", "finnish", "swahili"])
    ]
    data = {"data": [{"paragraphs": [{"context": "c", "qas": asked}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(data), encoding="utf-8")
    rows = load_target(f"tydiqa:{tmp_path}/dev.json")
    assert rows.column("subtask") == ["finnish", "swahili"]
    assert [row.response for row in rows] == ["finnish 0", "swahili 2"]
    assert rows[0].prompt == "Passage: c\n\nQuestion: q0?"


def test_anything_else_is_read_as_rows(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"prompt": "p", "response": "r"}\n', encoding="utf-8")
    assert len(load_target(str(tmp_path / "dev.jsonl"))) == 1
    assert len(load_target([{"prompt": "p", "response": "r"}])) == 1
    assert (subtask_column("mmlu:x"), subtask_column("x.jsonl")) == ("subtask", "")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no"):
        load_target(f"mmlu:{tmp_path}/nothing")
    with pytest.raises(InputError, match="holds no examples of mmlu"):
        load_target(f"mmlu:{tmp_path}")
    (tmp_path / "x.json").write_text("[1]", encoding="utf-8")
    for kind in ("bbh", "tydiqa"):
        with pytest.raises(InputError, match=r"x\.json"):
            load_target(f"{kind}:{tmp_path}")


def test_the_published_files(test_data: Path) -> None:
    mmlu = load_target(f"mmlu:{test_data}/mmlu/dev")
    assert len(mmlu) == 285
    assert len(set(mmlu.column("subtask"))) == 57
    bbh = load_target(f"bbh:{test_data}/bbh")
    assert len(bbh) == 81
    assert len(set(bbh.column("subtask"))) == 27
