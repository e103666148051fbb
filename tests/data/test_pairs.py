"""A prompt and an answer in two columns: what becomes of them together."""

from __future__ import annotations

import pytest

from dfilter.data.dataset import Dataset
from dfilter.errors import InputError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "S"}
BEFORE = [user("Q1"), assistant("A1")]
ASKED = "\n\nHuman: hi\n\nAssistant:"


def read(row, **how):
    [made] = Dataset.from_rows([row], on_bad_rows="stop", **how)
    return made


def turns(row):
    return [{"role": m.role, "content": m.content} for m in read(row).messages]


def refused(row):
    with pytest.raises(InputError) as caught:
        read(row)
    return str(caught.value)


@pytest.mark.parametrize("column", ["input", "context"])
def test_a_chosen_answer_has_the_input_of_its_instruction(column):
    row = {"instruction": "Translate.", column: "The cat.", "chosen": "Le chat.", "rejected": "no"}
    assert (
        read(row).prompt
        == read(row | {"output": "Le chat.", "chosen": None}).prompt
        == "Translate.\n\nThe cat."
    )
    assert read(row).context == "The cat."
    assert turns(row | {column: " "}) == [user("Translate."), assistant("Le chat.")]
    assert turns(row | {"history": [["Q1", "A1"]]})[:2] == BEFORE
    assert f"'{column}' is a number" in refused(row | {column: 3})


WHOLE = [*BEFORE, user("Q"), assistant("A")]


@pytest.mark.parametrize(
    ("prompt", "chosen", "expected"),
    [
        ("Q", [SYSTEM, user("Q"), assistant("A")], [SYSTEM, *WHOLE[2:]]),
        ("Q", WHOLE, WHOLE),
        ("Q \n", WHOLE[2:], WHOLE[2:]),
        ("", WHOLE, WHOLE),
        ([SYSTEM, user("Q")], WHOLE, [SYSTEM, *WHOLE]),
        (WHOLE[:3], [SYSTEM, *WHOLE], [SYSTEM, *WHOLE]),
        (WHOLE[:3], WHOLE[3:], WHOLE),
        (BEFORE, WHOLE[2:], WHOLE),
        ("Q", [assistant("A"), user("Q2"), assistant("A2")], [*WHOLE[2:], user("Q2"), assistant("A2")]),
    ],
)
def test_an_answers_column_that_holds_the_whole_dialogue_is_the_row(prompt, chosen, expected):
    assert turns({"prompt": prompt, "chosen": chosen, "rejected": "no"}) == expected
    if isinstance(prompt, list):
        assert turns({"prompt": prompt, "completion": chosen}) == expected


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [("Q?", WHOLE), (WHOLE[:3], WHOLE[2:]), ([user("Q"), assistant("A"), user("Q1")], WHOLE)],
)
def test_a_dialogue_without_its_prompt_is_refused(prompt, chosen):
    said = refused({"prompt": prompt, "chosen": chosen, "rejected": "no"})
    assert "'chosen' holds a dialogue in which 'prompt' does not occur; take away one" in said


@pytest.mark.parametrize("chosen", [" Hello", f"{ASKED} Hello"])
def test_transcripts_with_their_prompt_apart(chosen):
    assert turns({"prompt": ASKED, "chosen": chosen, "rejected": "no"}) == [user("hi"), assistant("Hello")]


@pytest.mark.parametrize("column", ["answer", "completion", "chosen"])
@pytest.mark.parametrize("texts", [["Paris", "Paris, France"], ["Paris"], ["a", "b", "c", "d"]])
def test_several_answers_are_no_dialogue(column, texts):
    said = refused({"question": "Capital of France?", column: texts})
    assert f"'{column}' is a list of {len(texts)} text" in said
    assert "choose one" in said


def test_an_answer_that_shows_turns_as_json_stays_a_text():
    shown = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]'
    for column in ("response", "answer"):
        assert turns({"prompt": "Show messages.", column: shown})[1:] == [assistant(shown)]
    asked = '[{"role": "user", "content": "Q"}]'  # CSV holds both so
    row = {"prompt": asked, "completion": '[{"role": "assistant", "content": "A"}]'}
    assert turns(row) == [user("Q"), assistant("A")]


def test_history_that_is_read_is_not_named():
    row = {"query": "Q", "response": "A", "history": [["Q1", "A1"]]}
    made = Dataset.from_rows([row])
    assert len(made[0].messages) == 4
    assert not made.source.notes


def test_tools_beside_the_prompt_of_openais_pairs_are_read():
    asked = {"messages": [user("Q")], "tools": [{"type": "function", "function": {"name": "tide"}}]}
    row = {"input": asked, "preferred_output": [assistant("A")], "non_preferred_output": []}
    assert (
        read(row).tools
        == read({"messages": [user("Q"), assistant("A")], "tools": asked["tools"]}).tools
        != ""
    )
    assert not read(row | {"input": {"messages": [user("Q")]}}).tools
