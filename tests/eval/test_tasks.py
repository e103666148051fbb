"""MMLU and BBH from local files: against a plain loop, and against cases counted by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from dfilter.comparison import Comparison, parse_evaluations
from dfilter.data.targets import load_target
from dfilter.data.tasks import Choice, choices
from dfilter.errors import DFilterError, InputError, SettingsError
from dfilter.eval import bbh
from dfilter.eval.bbh import BBH
from dfilter.eval.generation import Answer, Decoding
from dfilter.eval.mmlu import MMLU
from dfilter.evaluations import check_inputs
from dfilter.identity import identity
from dfilter.models import load_causal, resolve

HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(records)


@pytest.fixture
def folder(tmp_path):
    for subject, size in (("high_art", 3), ("law", 2)):
        shots = [[f"{subject} example {i}", "a", "b", "c", "d", "ABCD"[i]] for i in range(2)]
        asked = [[f"{subject} question {i} {'long ' * i}", "w", "x", "y", "z", str(i)] for i in range(size)]
        write(tmp_path / "mmlu" / "dev" / f"{subject}_dev.csv", HEADER, *shots)
        write(tmp_path / "mmlu" / "test" / f"{subject}_test.csv", HEADER, *asked)
    return tmp_path / "mmlu"


TEXT = """The following are multiple choice questions (with answers) about high art.

high_art example 0
A. a
B. b
C. c
D. d
Answer: A

high_art example 1
A. a
B. b
C. c
D. d
Answer: B

high_art question 2 long long
A. w
B. x
C. y
D. z
Answer:"""


def test_mmlu_equals_a_plain_loop_over_the_published_prompt(folder) -> None:
    """One question at a time, each letter's whole continuation through the model."""
    made = MMLU(str(folder), shots=2, chat=False)
    found = made.evaluate(resolve("tiny").path)
    assert found.prompts == ("high_art/0", "high_art/1", "high_art/2", "law/0", "law/1")
    assert found.facts["sets"] == ["high_art"] * 3 + ["law"] * 2
    model, tokenizer = load_causal("tiny", dtype="float32")
    for at, (question, examples) in enumerate(made._questions()):
        parts = [f"{one.text}\nAnswer: {one.answer}" for one in examples]
        head = f"The following are multiple choice questions (with answers) about {examples[0].subject}."
        text = "\n\n".join([head.replace("_", " "), *parts, f"{question.text}\nAnswer:"])
        if at == 2:
            assert text == TEXT
        likely = []
        for letter in "ABCD":
            ids = torch.tensor([tokenizer.encode(f"{text} {letter}")])
            size = ids.shape[1] - len(tokenizer.encode(text))
            with torch.inference_mode():
                logs = model(input_ids=ids).logits[0].log_softmax(-1)[-size - 1 : -1]
            likely.append(float(logs.gather(1, ids[0, -size:, None]).sum()))
        assert found.values[at] == float("ABCD"[int(np.argmax(likely))] == question.answer)


def test_the_folders_of_mmlu_are_found_from_each_other(folder) -> None:
    wanted = MMLU(str(folder))
    assert [MMLU(str(folder / name), shots=2).asked() for name in ("dev", "test")] == [
        MMLU(str(folder), shots=2).asked()
    ] * 2
    assert len(load_target(f"mmlu:{folder}")) == len(load_target(f"mmlu:{folder / 'dev'}")) == 4
    same = [identity(MMLU(str(folder / name)))["source"]["content"] for name in ("", "dev", "test")]
    assert len(set(same)) == 1
    with pytest.raises(InputError, match="fewer than 5 examples for 2 subjects"):
        wanted.check()
    (folder / "test" / "law_test.csv").write_text("Another question,w,x,y,z,A\n")
    assert identity(MMLU(str(folder / "dev")))["source"]["content"] != same[0]


def test_what_does_not_fit_has_fewer_examples_or_no_value(folder) -> None:
    write(
        folder / "test" / "law_test.csv", ["word " * 300, "w", "x", "y", "z", "A"], ["by " * 60, *"wxyz", "A"]
    )
    found = MMLU(str(folder), shots=2, max_tokens=150).evaluate(resolve("tiny").path)
    assert np.isnan(found.values).tolist() == [False] * 3 + [True, False]
    assert found.facts["fewer_shots"] > 0
    reason = "the question does not fit into 150 tokens, even without examples"
    assert found.facts["not_shown"] == {"law/0": reason}
    with pytest.raises(InputError, match=r"none of 5 prompts.*does not fit into 9 tokens"):
        MMLU(str(folder), shots=2, max_tokens=9).evaluate(resolve("tiny").path)


def test_bbh_gives_no_value_to_a_question_that_leaves_no_room(tmp_path) -> None:
    asked = [{"input": text, "target": "yes"} for text in ("a", "b", "word " * 9_999)]
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "navigate.json").write_text(json.dumps({"examples": asked}))
    made = BBH(str(tmp_path / "bbh"), shots=1, decoding=Decoding(max_new_tokens=4))
    found = made.evaluate(resolve("tiny").path)
    assert np.isnan(found.values).tolist() == [False, True]
    assert "no room for an answer" in found.facts["not_shown"]["navigate/2"]
    assert found.facts["answers"] == 1


def test_equally_likely_letters_share_the_point(folder, monkeypatch) -> None:
    from dfilter.eval import mmlu

    monkeypatch.setattr(mmlu._Scorer, "letters", lambda self, prompts: np.zeros((len(prompts), 10)))
    assert MMLU(str(folder), shots=0).evaluate(resolve("tiny").path).values.tolist() == [0.25] * 5


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (["q", "w", "x", "y", "z", "E"], "record 1: the answer 'E'"),
        (["q", "w", "x", "y", "z", "4"], "record 1: the answer '4'"),
        (["q", "w"], "record 1: 2 fields"),
        (["", "w", "x", "y", "z", "A"], "record 1: there is no question"),
    ],
)
def test_a_record_that_is_none_is_named_before_training(folder, record, said) -> None:
    write(folder / "test" / "law_test.csv", record)
    evaluations = [f"mmlu:{folder},shots=2", "bbh:absent"]
    with pytest.raises(DFilterError, match=said) as caught:
        check_inputs(parse_evaluations(evaluations, Comparison(folder)))
    assert "absent holds no examples of BBH" in str(caught.value)


ASKED = ["what?", "w", "x, and w", "y", "z"]
LISTED = "['w' 'x, and w'\n 'y' \"z\"]"  # as numpy prints it


@pytest.mark.parametrize("answer", ["1", "1.0", "B", "b", " b ", "(B)", "b.", "x, and w"])
@pytest.mark.parametrize(
    ("header", "record"),
    [
        (None, [*ASKED, "!"]),
        (HEADER, [*ASKED, "!"]),
        (["Question", "A", "B", "C", "D", "Answer"], [*ASKED, "!"]),
        (["question", "choice_1", "choice_2", "choice_3", "choice_4", "answer"], [*ASKED, "!"]),
        (["input", "A", "B", "C", "D", "target"], [*ASKED, "!"]),
        (["answer", "question", "D", "C", "B", "A"], ["!", "what?", "z", "y", "x, and w", "w"]),
        (["", *HEADER], ["7", *ASKED, "!"]),
        (["Unnamed: 0", *HEADER], ["7", *ASKED, "!"]),
        (["0", "1", "2", "3", "4", "5"], [*ASKED, "!"]),
        (["", "0", "1", "2", "3", "4", "5"], ["0", *ASKED, "!"]),
        (None, ["0", *ASKED, "!"]),
        (["question", "subject", "choices", "answer"], ["what?", "fine art", LISTED, "!"]),
        (["id", "question", "choices", "answer"], ["7", "what?", json.dumps(ASKED[1:]), "!"]),
        (["question", "options", "answer", "why"], ["what?", str(ASKED[1:]), "!", "because"]),
    ],
)
def test_a_header_says_where_things_stand(tmp_path, header, record, answer) -> None:
    lines = [[answer if cell == "!" else cell for cell in record]]
    write(tmp_path / "law_test.csv", *([header] if header else []), *lines)
    subject = "fine_art" if header and "subject" in header else "law"
    assert choices(tmp_path / "law_test.csv") == [Choice(subject, ASKED[0], tuple(ASKED[1:]), "B")]


@pytest.mark.parametrize("answer", ["AB", "BCD", "ABCD", "", "E", "e", "4", "-1", "1.5", "w, x", "W"])
def test_what_names_no_choice_is_no_answer(tmp_path, answer) -> None:
    write(tmp_path / "law_test.csv", HEADER, [*ASKED, answer])
    with pytest.raises(InputError, match="record 2: the answer"):
        choices(tmp_path / "law_test.csv")


def test_numbers_are_texts_where_one_of_them_is_no_index(tmp_path) -> None:
    write(tmp_path / "law_test.csv", HEADER, ["a", "0", "4", "2", "6", "2"], ["b", "0", "4", "2", "1", "4"])
    assert [one.answer for one in choices(tmp_path / "law_test.csv")] == ["C", "B"]
    write(tmp_path / "law_test.csv", HEADER, ["a", "0", "4", "2", "6", "2"], ["b", "0", "4", "2", "1", "3"])
    assert [one.answer for one in choices(tmp_path / "law_test.csv")] == ["C", "D"]


@pytest.mark.parametrize(
    "header",
    [
        ["question", "first", "second", "third", "fourth", "answer"],
        ["question", "A", "B", "C", "D", "solution"],
        ["query", "A", "B", "C", "D", "answer"],
        ["question", "A", "B", "D", "E", "answer"],
    ],
)
def test_columns_that_are_not_known_are_named(tmp_path, header) -> None:
    write(tmp_path / "law_test.csv", header, [*ASKED, "B"])
    with pytest.raises(InputError, match=f"has the columns .*'{header[1].lower()}', .*; wanted: question"):
        choices(tmp_path / "law_test.csv")


def test_an_empty_file_has_no_questions(tmp_path) -> None:
    (tmp_path / "law_test.csv").write_text("\n")
    assert choices(tmp_path / "law_test.csv") == []


def test_a_first_question_with_a_headers_words_is_a_question(tmp_path) -> None:
    write(tmp_path / "law_test.csv", ["Which is done?", "subject", "answer", "input", "label", "B"])
    assert choices(tmp_path / "law_test.csv")[0].choices == ("subject", "answer", "input", "label")


@pytest.fixture
def tasks(tmp_path):
    place = tmp_path / "bbh"
    place.mkdir()
    for name, targets in (("navigate", ["Yes", "No", "No", "Yes", "No"]), ("options", ["(A)"] * 5)):
        told = [{"input": f"{name} {i}?", "target": target} for i, target in enumerate(targets)]
        (place / f"{name}.json").write_text(json.dumps({"canary": "x", "examples": told}))
    return place


def test_bbh_shows_the_first_examples_and_asks_the_others(tasks, monkeypatch, tmp_path) -> None:
    heard = []

    def said(model, prompts, decoding, seed):
        heard.extend(prompt[0].content for prompt in prompts)
        texts = ["So the answer is Yes.\n\nQ: more?\nA: the answer is No.", "No\nQ: x", "(A) first", "b"]
        return [Answer(text, cut=False) for text in texts]

    monkeypatch.setattr(bbh, "answer", said)
    found = BBH(str(tasks)).evaluate(tmp_path)
    assert (
        heard[0]
        == "Q: navigate 0?\nA: Yes\n\nQ: navigate 1?\nA: No\n\nQ: navigate 2?\nA: No\n\nQ: navigate 3?\nA:"
    )
    assert found.prompts == ("navigate/3", "navigate/4", "options/3", "options/4")
    assert found.values.tolist() == [1, 1, 1, 0]
    assert found.facts["sets"] == ["navigate"] * 2 + ["options"] * 2
    shown = {row.prompt for row in load_target(f"bbh:{tasks}")}
    assert not shown & set(BBH(str(tasks)).asked())  # what a strategy selects for is not what is asked


def test_bbh_with_chains_of_thought_asks_every_question(tasks, tmp_path) -> None:
    chains = tmp_path / "cot-prompts"
    chains.mkdir()
    worked = "\n\n".join(f"Q: q{i}\nA: Let's think. So the answer is No." for i in range(3))
    for name in ("navigate", "options"):
        (chains / f"{name}.txt").write_text(f"canary\n-----\nDo the task.\n\n{worked}\n")
    made = BBH(str(tasks), limit=4)
    assert len(made.asked()) == 8
    assert made._prompts()[0][1] == f"Do the task.\n\n{worked}\n\nQ: navigate 0?\nA:"


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("True", "True", 1),
        ("true.", "True", 1),
        ("not true", "True", 0),
        ("The answer is (B).", "(B)", 1),
        ("So the answer is B", "(B)", 1),
        ("(B) 12/14/2026", "(B)", 1),
        ("(C) because of (B)", "(B)", 0),
        ("] ] >", "] ] >", 1),
        ("] ]", "] ] >", 0),
        ("", "24", 0),
        ("The answer is 2.5. Next", "2.5", 1),
        ("the answer is -50.", "-50", 1),
        ("50", "-50", 0),
        ("barn  damp dot", "barn damp dot", 1),
    ],
)
def test_right_and_wrong_answers_of_bbh(said, answer, right) -> None:
    assert bbh.is_right(said, answer) == right


def test_bbh_runs_and_wrong_numbers_are_refused_together(tasks) -> None:
    found = BBH(str(tasks), limit=1, decoding=Decoding(max_new_tokens=4)).evaluate(resolve("tiny").path)
    assert found.values.shape == (2,)
    with pytest.raises(SettingsError, match=r"(?s)shots = -1.*limit = 0"):
        BBH(str(tasks), shots=-1, limit=0)
    with pytest.raises(InputError, match="navigate has 5 worked examples and 0 questions"):
        BBH(str(tasks), shots=5).check()


def test_the_published_files_are_read_whole(test_data) -> None:
    assert len(MMLU(str(test_data / "mmlu" / "dev")).asked()) == 14_042
    assert len(BBH(str(test_data / "bbh")).asked()) == 6_511 - 27 * 3
