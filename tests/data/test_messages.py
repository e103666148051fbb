"""Turns in the forms of public files, and what is read of data that holds more than answers."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfilter.data import open_dataset
from dfilter.data.dataset import Dataset
from dfilter.data.messages import ROLES
from dfilter.errors import InputError

QA = [("user", "Q"), ("assistant", "A")]
TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
MORE = [("user", "Q"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]


def turns(row, **how):
    [read] = Dataset.from_rows([row], on_bad_rows="stop", **how)
    return [(m.role, m.content) for m in read.messages]


@pytest.mark.parametrize(
    "value",
    [
        TURNS,
        json.dumps(TURNS),
        str(TURNS),
        " " + json.dumps(TURNS, indent=1),
        ["Q", "A"],
        [{"human": "Q", "assistant": "A"}],
        [{"user": "Q", "gpt": "A", "extra": None}],
        {"role": ["user", "assistant"], "content": ["Q", "A"]},
        {"from": ["human", "gpt"], "value": ["Q", "A"]},
        [{"role": "User ", "content": [{"type": "text", "text": "Q"}]}, {"role": "ChatGPT", "content": "A"}],
        [{"from": "prompter", "value": "Q"}, {"from": "bing", "value": [{"type": "text", "value": "A"}]}],
        [
            {"role": "user", "content": ["Q"]},
            {"role": "assistant", "content": [{"type": "text", "content": "A"}]},
        ],
        [{"role": "user", "content": [{"type": None, "text": "Q"}]}, {"role": "assistant", "content": "A"}],
    ],
)
def test_lists_of_turns(value):
    assert turns({"messages": value}) == QA
    assert turns({"conversations": value}) == QA


@pytest.mark.parametrize(
    "role", ["human", "Human", "prompter", "system prompt", "Function-Response", " gpt "]
)
def test_roles_are_known_however_they_are_written(role):
    said = [{"role": role, "content": "x"}, {"role": "assistant", "content": "A"}]
    assert turns({"messages": said})[0][0] == ROLES[role.strip().lower().replace(" ", "_").replace("-", "_")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": [TURNS[0]], "completion": [TURNS[1]]}, QA),
        ({"prompt": [TURNS[0]], "completion": "A"}, QA),
        ({"prompt": "Q", "completion": [TURNS[1]]}, QA),
        ({"prompt": "Q", "chosen": "A", "rejected": "no"}, QA),
        ({"prompt": "Q", "chosen": [TURNS[1]], "rejected": [TURNS[1]]}, QA),
        ({"prompt": "Q", "chosen": TURNS, "rejected": TURNS}, QA),
        ({"chosen": TURNS, "rejected": TURNS}, QA),
        ({"question": "Q", "chosen": {"from": "gpt", "value": "A"}, "rejected": {}}, QA),
        ({"prompt": [TURNS[0]], "chosen": [TURNS[1]], "rejected": []}, QA),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: no"}, QA),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: B"}, MORE),
        ({"prompt": "Q", "messages": TURNS, "chosen": TURNS, "rejected": TURNS}, QA),
        ({"instruction": "R", "output": "B", "history": [["Q", "A"]]}, MORE),
        ({"instruction": "R", "output": "B", "history": '[["Q", "A"]]'}, MORE),
        ({"instruction": "Q", "output": "A", "history": []}, QA),
        ({"messages": TURNS, "label": True}, QA),
        ({"instruction": "Q", "output": "A", "label": 0}, QA),
        ({"prompt": "Q", "completion": "A", "label": 2}, QA),
        ({"prompt": "Q", "completion": "A", "label": 1.0}, QA),
        ({"prompt": "Q", "answer": "A", "options": {"A": None}}, QA),
        ({"messages": [TURNS[0] | {"weight": 0}, TURNS[1] | {"weight": 1}]}, QA),
        ({"messages": [TURNS[0] | {"train": False}, TURNS[1] | {"train": None}]}, QA),
    ],
)
def test_forms_of_public_files(row, expected):
    assert turns(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": TURNS, "label": False}, "its answer is marked as a bad one ('label' is false)"),
        ({"prompt": "Q", "completion": "A", "label": False}, "('label' is false)"),
        ({"instruction": "Q", "output": "A", "kto_tag": False}, "('kto_tag' is false)"),
        ({"instruction": "Q", "output": "A", "label": False}, "('label' is false)"),
        ({"instruction": "Q", "output": "A", "kto_tag": 0}, "('kto_tag' is 0)"),
        *(({"prompt": "Q", "completion": "A", "label": no}, f"marked as a bad one ('label' is {no})")
          for no in (0, 0.0, "0", "0.0")),
        ({"messages": TURNS, "label": 0}, "('label' is 0)"),
        ({"prompt": "Q", "answer": "A", "options": {"A": "x", "B": "y"}}, "'options' holds answers"),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0}]}, "not to be learnt ('weight' is 0)"),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0.0}]}, "('weight' is 0.0)"),
        ({"messages": [TURNS[0], TURNS[1] | {"train": False}]}, "('train' is False)"),
        ({"messages": [TURNS[0], TURNS[1] | {"content": "", "reasoning_content": "hm"}]}, "is empty"),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0.5}]}, "'weight' of turn 2 is 0.5, and a turn is"),
        ({"messages": [TURNS[0], TURNS[1] | {"train_detail": [{"begin_offset": 0}]}]}, "(train_detail or"),
        ({"messages": [TURNS[0], TURNS[1] | {"content": [{"type": "text", "text": "A", "train": False}]}]},
         "a part of turn 2 is not to be learnt"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "thinking", "text": "hm"}]}]},
         "is empty"),
        ({"messages": [TURNS[0], TURNS[1] | {"tool_calls": [{"arguments": {}}]}]}, "without the name of"),
        ({"messages": [TURNS[0] | {"tools": '[{"name": "a"}]'}, TURNS[1]]}, "turn 1 defines tools"),
        ({"messages": TURNS, "tools": "a hammer"}, "'tools' holds text that defines no tool"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[1]]}, "'image_url'"),
        ({"messages": "[1, 2"}, "'messages' is text, expected a list of turns"),
        ({"messages": {"role": ["user"], "content": ["Q", "A"]}}, "an object, expected a list of turns"),
        ({"chosen": "A", "rejected": "B"}, "there is no prompt beside 'chosen'"),
        ({"prompt": "Q", "chosen": "\u200b"}, "the response ('chosen') is empty"),
        ({"instruction": "Q", "output": "A", "history": ["Q", "A"]}, "'history' is no list of pairs"),
    ],
)  # fmt: skip
def test_what_is_not_to_be_learnt_or_not_understood_is_refused_with_its_reason(row, reason):
    name = next(n for n in ("messages", "chosen", "instruction", "prompt") if n in row)
    shape = {"messages": "messages", "chosen": "preference", "instruction": "alpaca"}.get(
        name, "prompt-response"
    )
    with pytest.raises(InputError) as caught:
        turns(row, format=shape)
    assert reason in str(caught.value)


def test_what_is_not_read_is_named_once_with_how_many_have_it(tmp_path):
    seen = {"tools": [], "source": "x", "note": None}
    rows = [
        {"messages": TURNS} | seen,
        {"messages": [TURNS[0], TURNS[1] | {"name": "n", "reasoning_content": "r"}], "images": ["a.png"]},
        {"messages": TURNS, "tools": [{"name": "f"}], "loss_mask": [0, 1]},
        {"messages": TURNS, "tools": [{"name": "g"}], "label": 2},
    ]
    notes = [
        "the column 'images' (pictures, films or sound) is not read: 1 row",
        "the column 'label' (a mark of good and bad answers) is not read: 1 row",
        "the column 'loss_mask' (what is to be learnt) is not read: 1 row",
        "columns that are kept and not read: source",
        "parts of turns that are kept and not read: name",
    ]
    assert Dataset.from_rows(rows).source.notes == notes
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        assert list(open_dataset(path, cache=tmp_path / "cache").source.notes) == notes
    texts = [row | {"messages": json.dumps(row["messages"])} for row in rows]
    assert Dataset.from_rows(texts).source.notes == notes
    names = dict.fromkeys(name for row in rows for name in row)
    padded = [dict.fromkeys(names) | row for row in rows]
    pq.write_table(pa.Table.from_pylist(padded), tmp_path / "rows.parquet")
    assert list(open_dataset(tmp_path / "rows.parquet", cache=tmp_path / "cache").source.notes) == notes


def test_only_what_is_not_read_is_named():
    chosen = {"prompt": "Q", "answer": "A", "rejected": "B"}
    [note] = Dataset.from_rows([chosen]).source.notes
    assert note == "the column 'rejected' (answers that were refused) is not read: 1 row"
    mapped = Dataset.from_rows([{"prompt": "Q", "rejected": "A"}], mapping={"response": "rejected"})
    assert not mapped.source.notes
    for row in (
        {"id": 1, "system": "S", "messages": TURNS, "label": True},
        {"instruction": "Q", "input": "I", "output": "A", "history": [["a", "b"]]},
        {"prompt": "Q", "chosen": "A"},
    ):
        assert not Dataset.from_rows([row]).source.notes


ALPACA, PAIR = {"instruction": "Q", "output": "A"}, {"prompt": "Q", "response": "A"}
OTHERS = pytest.mark.parametrize("row", [ALPACA, PAIR, {"messages": TURNS}])


@OTHERS
@pytest.mark.parametrize(
    "system",
    [
        {"role": "system", "content": "S"},
        {"content": [{"type": "text", "text": "S"}]},
        [{"type": "text", "text": "S"}],
        ["S"],
    ],
)
def test_a_system_column_may_hold_a_turn(row, system):
    assert turns(row | {"system": system}) == [("system", "S"), *QA]


@OTHERS
def test_columns_of_every_shape_are_read_or_refused(row):
    for nothing in ({"role": None, "content": None}, [], {}):
        assert turns(row | {"system": nothing}) == QA
    bad = ({"role": "user", "content": "S"}, {"version": 2}, [{"type": "image_url"}])
    for column, values in (("system", bad), ("tools", ({"f": {"description": "d"}}, [{"description": "d"}]))):
        for value in values:
            with pytest.raises(InputError, match=f"'{column}' "):
                turns(row | {column: value})


@pytest.mark.parametrize("words", ["a hammer", ["hammer", "saw"]])
def test_tools_in_words_beside_two_texts_are_a_column_of_this_name(words):
    assert turns(ALPACA | {"tools": words}) == QA


@pytest.mark.parametrize(
    "row",
    [
        {"messages": "[{'role': 'user', 'content': 'Q'}\n {'role': 'assistant', 'content': 'A'}]"},
        {"messages": "array([{'role': 'user', 'content': 'Q'}], dtype=object)"},
        {"prompt": "Q", "completion": str(TURNS[1:])},
        {"prompt": "[{'role': 'user', 'content': 'Q'} ...]", "completion": "A"},
        {
            "prompt": "Q",
            "chosen": "[{'content': 'Q', 'role': 'user'}\n {'content': 'A', 'role': 'assistant'}]",
        },
    ],
)
def test_turns_as_python_or_numpy_prints_them_are_refused(row):
    """What DataFrame.to_csv writes of a column of lists, or of arrays as Parquet gave them."""
    with pytest.raises(InputError, match=r"as Python or NumPy prints it; write it as JSON"):
        turns(row)
