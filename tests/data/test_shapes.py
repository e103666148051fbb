from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.data.detect import detect
from dfilter.data.rejects import RowError
from dfilter.data.shapes import FIELDS, content_key_of, is_blank, text_length
from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.types import Example, Message, content_key

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def read(row, name="auto", mapping=None):
    return detect([row], name, mapping).reader()(row)


def test_alpaca_joins_instruction_and_input_and_remembers_the_input():
    turns, context = read({"instruction": "Add.", "input": "1 and 2", "output": "3"})
    assert turns == [("user", "Add.\n\n1 and 2"), ("assistant", "3")]
    assert context == "1 and 2"


@pytest.mark.parametrize("missing", [{}, {"input": ""}, {"input": None}, {"input": " \n"}])
def test_alpaca_without_input_is_the_instruction_alone(missing):
    assert read({"instruction": "Hi.", "output": "Ho.", **missing}) == (
        [("user", "Hi."), ("assistant", "Ho.")],
        "",
    )


def test_messages_keep_system_tool_and_every_turn():
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "2."}],
            },
            {"role": "user", "content": "Thanks"},
        ]
    }
    turns, _ = read(row)
    assert [role for role, _ in turns] == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert turns[2][1] == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert turns[4][1] == "It is 2."


def test_sharegpt_roles_and_the_system_column():
    row = {
        "system": "You can call tools.",
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather"}'},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "It rains."},
        ],
    }
    turns, _ = read(row)
    assert turns == [
        ("system", "You can call tools."),
        ("user", "Weather?"),
        ("assistant", '{"name": "weather"}'),
        ("tool", "rain"),
        ("assistant", "It rains."),
    ]


def test_plain_strings_alternate_as_in_limas_own_files():
    assert read({"conversations": ["Q", "A"], "source": "stackexchange"})[0] == [
        ("user", "Q"),
        ("assistant", "A"),
    ]


@pytest.mark.parametrize("column", ["response", "completion", "answer"])
def test_pairs_by_each_name(column):
    assert read({"prompt": "Q", column: "A"})[0] == [("user", "Q"), ("assistant", "A")]


def test_mapping_reaches_nested_columns():
    row = {"q": {"text": "Q"}, "a": {"best": {"text": "A"}}}
    assert read(row, mapping={"prompt": "q/text", "response": "a/best/text"})[0] == [
        ("user", "Q"),
        ("assistant", "A"),
    ]


def test_a_column_whose_name_has_a_slash_wins_over_a_nested_one():
    row = {"prompt": "Q", "set/answer": "A", "set": {"answer": "B"}}
    assert read(row, mapping={"response": "set/answer"})[0][1] == ("assistant", "A")


def test_a_list_of_turns_wins_over_a_pair_that_stands_beside_it():
    row = {
        "prompt": "Q",
        "response": "A",
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
    }
    assert detect([row]).name == "messages"
    assert detect([row], "prompt-response").name == "prompt-response"


def test_columns_that_only_bear_the_name_of_a_shape_do_not_decide():
    row = {"messages": 3, "prompt": "Q", "answer": "A"}
    assert detect([row]).name == "prompt-response"


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        ({"instruction": "Q", "output": ""}, "alpaca", "the response ('output') is empty"),
        ({"instruction": "Q", "output": " \n\u2003"}, "alpaca", "the response ('output') is empty"),
        ({"instruction": "Q"}, "alpaca", "the column 'output' is missing"),
        ({"instruction": None, "output": "A"}, "alpaca", "'instruction' is null"),
        ({"instruction": "Q", "input": ["x"], "output": "A"}, "alpaca", "'input' is a list, expected text"),
        ({"instruction": 5, "output": "A"}, "alpaca", "'instruction' is a number, expected text"),
        (
            {"prompt": "Q", "response": {"text": "A"}},
            "prompt-response",
            "'response' is an object, expected text",
        ),
        ({"prompt": "Q", "response": "\t"}, "prompt-response", "the response ('response') is empty"),
        ({"messages": []}, "messages", "'messages' has no assistant turn"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "messages", "'messages' has no assistant turn"),
        ({"messages": "Q"}, "messages", "'messages' is text, expected a list of turns"),
        ({"other": 1}, "messages", "the column 'messages' is missing"),
        ({"messages": [3]}, "messages", "turn 1 is a number, expected an object with role and content"),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            "messages",
            "the content of turn 1 is null, expected text",
        ),
        (
            {"messages": [{"role": "assistant", "content": "A"}, {"role": "assistant", "content": " "}]},
            "messages",
            "the response (the last assistant turn) is empty",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]},
            "messages",
            "a part of turn 1 is of type 'image_url', expected text",
        ),
    ],
)
def test_the_reason_names_what_is_wrong_with_a_row(row, name, reason):
    with pytest.raises(RowError) as caught:
        read(row, name)
    assert str(caught.value) == reason


def test_an_unknown_role_is_named():
    with pytest.raises(RowError, match="turn 1 has the role 'critic'"):
        read({"messages": [{"role": "critic", "content": "x"}]}, "messages")


def test_no_shape_lists_the_columns_and_what_was_expected():
    with pytest.raises(InputError, match=r"their columns are: question, reply.*--map"):
        detect([{"question": "Q", "reply": "A"}])


def test_an_unknown_format_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'alpaca'"):
        detect([{}], "alpacca")


def test_all_unknown_mapped_fields_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        detect([{}], "auto", {"promt": "a", "reponse": "b"})
    assert len(caught.value.findings) == 2
    assert "Did you mean 'prompt'" in str(caught.value)


def test_a_mapped_column_that_no_row_has_is_named():
    with pytest.raises(InputError, match=r"--map response=reply; the columns are: answer, prompt"):
        read({"prompt": "Q", "answer": "A"}, mapping={"response": "reply"})


def test_mapped_fields_of_two_shapes_are_refused():
    with pytest.raises(SettingsError, match="different row formats"):
        detect([{}], "auto", {"instruction": "a", "response": "b"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a7", "a7"), (7, "7"), (7.5, "7.5"), ("", None), (None, None), (True, None), ([1], None)],
)
def test_an_id_is_text_or_a_number(value, expected):
    shape = detect([{"prompt": "Q", "answer": "A"}])
    assert shape.row_id({"id": value}) == expected


@given(
    turns=st.lists(st.tuples(st.sampled_from(["system", "user", "tool", "assistant"]), TEXT), max_size=6),
    response=TEXT,
    after=st.lists(st.tuples(st.sampled_from(["user", "tool"]), TEXT), max_size=2),
    context=TEXT,
)
def test_key_and_length_are_those_of_the_example(turns, response, after, context):
    turns = [*turns, ("assistant", response), *after]
    messages = tuple(Message(*turn) for turn in turns)
    assert content_key_of(turns, context) == content_key(messages, context)
    assert text_length(turns) == len(Example("0", messages, {}, context).text)


TREE = {"role": "prompter", "text": "Q", "replies": [{"role": "assistant", "text": "A"}]}


def test_every_shape_is_detected_by_its_own_names():
    rows = {
        "alpaca": {"instruction": "Q", "input": "", "output": "A"},
        "messages": {"messages": [{"role": "assistant", "content": "A"}]},
        "conversations": {"conversations": [{"from": "gpt", "value": "A"}]},
        "prompt-response": {"prompt": "Q", "response": "A"},
        "preference": {"prompt": "Q", "chosen": "A", "rejected": "B"},
        "tree": {
            "prompt": {"role": "prompter", "text": "Q", "replies": [{"role": "assistant", "text": "A"}]}
        },
    }
    assert {name: detect([row]).name for name, row in rows.items()} == {name: name for name in FIELDS}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "\u200b",
        "\u200b\u200c\u200d\ufeff",
        "\u2060\u00ad",
        "\u202e\u202c",
        "\x00\x07",
        "\u3164",
        "\u2800",
        "\ufe0f",
        "\u115f\u1160",
        "\U000e0020",
        "\u061c \u180e",
        "\u3000\u00a0",
    ],
)
def test_what_shows_nothing_is_empty(text):
    assert is_blank(text)
    for row in ({"instruction": "Q", "output": text}, {"prompt": "Q", "answer": text}):
        with pytest.raises(InputError, match="is empty"):
            Dataset.from_rows([row], on_bad_rows="stop")
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": text}]
    with pytest.raises(InputError, match="is empty"):
        Dataset.from_rows([{"messages": turns}], on_bad_rows="stop")
    assert Dataset.from_rows([{"instruction": "Q", "input": text, "output": "A"}])[0].prompt == "Q"


@pytest.mark.parametrize(
    "text", ["0", ".", "\u200bx", "é", "e\u0301", "👍", "👍\ufe0f", "\ue000", "\u0378", "।"]
)
def test_what_shows_something_is_not(text):
    assert not is_blank(text)
