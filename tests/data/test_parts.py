"""What a turn says beside its words: calls of tools, reasoning, and whether it is to be learnt."""

from __future__ import annotations

import hashlib
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfilter.data import open_dataset
from dfilter.data.dataset import Dataset
from dfilter.errors import InputError
from dfilter.replies import composed, parts
from dfilter.types import content_key

ASKED = {"role": "user", "content": "Q"}
CALLED = '<tool_call>\n{"name": "tide", "arguments": {"port": "Brest"}}\n</tool_call>'
THOUGHT = "<think>\nhm\n</think>\n\nA"
BREST = {"port": "Brest"}


def row(*turns, **columns):
    (read,) = Dataset.from_rows([{"messages": [ASKED, *turns], **columns}], on_bad_rows="stop")
    return read


def said(**turn):
    return row({"role": "assistant", **turn}).response


@pytest.mark.parametrize(
    "calls",
    [
        [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "tide", "arguments": '{"port": "Brest"}'},
            }
        ],
        [
            {"function": {"name": "tide", "arguments": BREST}}
        ],  # NVIDIA-NeMo/Automodel#1921: with and without id
        [{"name": "tide", "arguments": BREST}],
        [{"name": "tide", "parameters": BREST}],
        [{"name": "tide", "arguments": {"port": "Brest", "unit": None}}],  # what Parquet pads a struct with
        '[{"name": "tide", "arguments": {"port": "Brest"}}]',
        ['{"name": "tide", "arguments": {"port": "Brest"}}'],
    ],
)
def test_a_call_is_the_same_in_every_form(calls):
    for content in ("", None):
        assert said(content=content, tool_calls=calls) == CALLED
    assert said(content="Let me see.", tool_calls=calls) == f"Let me see.\n{CALLED}"
    assert said(content=CALLED) == CALLED


def test_calls_in_turns_of_their_own_and_of_the_first_kind():
    text = '{"name": "tide", "arguments": {"port": "Brest"}}'
    assert row({"role": "function_call", "content": text}).response == CALLED
    assert said(content=None, function_call={"name": "tide", "arguments": json.dumps(BREST)}) == CALLED
    assert row({"role": "function_call", "content": "tide(Brest)"}).response == "tide(Brest)"


@pytest.mark.parametrize("arguments", [None, {}, "", "{}"])
def test_a_call_without_arguments_is_a_call(arguments):  # modelscope/ms-swift#4600: the row was dropped
    call = {"name": "now", "arguments": arguments}
    assert said(content=None, tool_calls=[call]) == composed("", "", [{"name": "now", "arguments": {}}])


def test_arguments_that_are_no_object_stay_text():
    assert parts(said(content="", tool_calls=[{"name": "run", "arguments": "ls -l"}])).calls == (
        {"name": "run", "arguments": "ls -l"},
    )


@pytest.mark.parametrize("returned", [{"height": 5.2, "unit": None}, [1, 2], 5.2, "5.2 m"])
def test_what_a_tool_returned_is_text(returned):
    made = row({"role": "tool", "content": returned}, {"role": "assistant", "content": "A"})
    wanted = returned if isinstance(returned, str) else json.dumps(returned)
    assert made.messages[1].content == wanted.replace(', "unit": null', "")


@pytest.mark.parametrize(
    "turn",
    [
        {"reasoning_content": "hm"},  # fw-ai/cookbook#378: another name for thinking
        {"thinking": "hm"},
        {"reasoning": "hm\n"},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "A"}]},
        {"content": THOUGHT},
        {"content": THOUGHT, "reasoning_content": "hm"},
        {"content": THOUGHT, "reasoning_content": None, "tool_calls": None},  # jingyaogong/minimind#737
    ],
)
def test_reasoning_is_the_same_in_every_form(turn):
    assert said(**{"content": "A"} | turn) == THOUGHT


LOOKALIKES = (
    "a <think>b</think>", "<think>never closed", "</think> alone", f"{CALLED} and more",
    "<tool_call>\nno JSON\n</tool_call>", '<tool_call>\n{"arguments": {}}\n</tool_call>',
)  # fmt: skip


@pytest.mark.parametrize("text", LOOKALIKES)
def test_what_only_looks_like_reasoning_or_a_call_is_words(text):
    assert parts(text).words == text
    assert said(content=text) == text


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"train": False}, {"training": "false"}, {"loss": False}, {"weight": 0.0},
     {"loss_mask": 0}, {"trainable": False}],  # verl-project/verl#5472
)  # fmt: skip
def test_a_turn_that_is_marked_is_kept_and_not_learnt(mark):
    first, last = {"role": "assistant", "content": "no"}, {"role": "assistant", "content": "A", "weight": 1}
    made = row(first | mark, ASKED, last)
    assert [(m.content, m.trained) for m in made.messages] == [
        ("Q", True), ("no", False), ("Q", True), ("A", True),
    ]  # fmt: skip
    assert (made.response, made.prompt) == ("A", "Q\n\nno\n\nQ")
    assert made.key != row(first, ASKED, last).key
    turned = row(first, ASKED, last | {"weight": 1} | mark)
    assert (turned.response, turned.prompt) == ("no", "Q")


DEFINED = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    "tools",
    [
        DEFINED,
        json.dumps(DEFINED),
        [DEFINED[0]["function"]],
        [json.dumps(DEFINED[0])],
        [DEFINED[0] | {"strict": None}],
        DEFINED[0],
    ],
)
def test_definitions_of_tools_are_the_same_in_every_form(tools):
    made = row({"role": "assistant", "content": "A"}, tools=tools)
    assert json.loads(made.tools) == DEFINED
    assert made.key == content_key(made.messages, tools=json.dumps(DEFINED))


def test_equal_messages_with_other_tools_are_other_rows():
    answer = {"role": "assistant", "content": "A"}
    plain, empty, told = (row(answer), row(answer, tools=[]), row(answer, tools=DEFINED))
    assert plain.key == empty.key == row(answer, tools=None).key
    assert len({plain.key, told.key, row(answer, tools=[{"name": "tide"}]).key}) == 3
    (pair,) = Dataset.from_rows([{"prompt": "Q", "response": "A", "tools": "a hammer"}])
    assert pair.tools == ""  # a column that happens to have this name


def test_parquet_and_json_lines_give_the_same_rows(tmp_path):
    rows = [
        {"messages": [
            ASKED | {"weight": None},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {
                "name": name, "arguments": arguments}}]},
            {"role": "tool", "content": "5", "tool_call_id": "1"},
            {"role": "assistant", "content": "A", "reasoning_content": thought, "weight": weight},
        ]}
        for name, arguments, thought, weight in [
            ("tide", {"port": "Brest"}, None, None), ("wave", {"sea": "North", "hours": 3}, "hm", 1),
        ]
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines, columns = (
        open_dataset(tmp_path / f"rows.{kind}", cache=tmp_path) for kind in ("jsonl", "parquet")
    )
    assert lines.keys.tolist() == columns.keys.tolist() == Dataset.from_rows(rows).keys.tolist()
    assert [one.messages for one in lines] == [one.messages for one in columns]
    assert lines[1].response == THOUGHT


def test_a_row_of_parts_survives_as_an_example():
    first = {"role": "assistant", "content": "no", "train": False}
    made = row(first, ASKED, {"role": "assistant", "content": "A"}, tools=DEFINED)
    changed = type(made)("x", made.messages, {}, "", made.tools)
    (read,) = Dataset.from_rows([changed])
    (again,) = Dataset.from_rows([read.fields])
    assert (again.messages, again.tools, again.key) == (made.messages, made.tools, made.key)


def test_keys_of_rows_without_parts_are_what_they_always_were():
    """Ratings that were paid for are stored under them; the digest is that of 1,000 keys of 2026-11."""
    draw = random.Random(13)
    words = ["harbour", "tide", "42", "Grüße", "世界", "\n\n", "a b", " ", "ไทย", "<|im_end|>", "x" * 40]

    def text():
        return " ".join(draw.choices(words, k=draw.randint(1, 8)))

    rows = []
    for at in range(1_000):
        if at % 4 == 0:
            made = {"instruction": text(), "input": text() if at % 8 else "", "output": "a" + text()}
        elif at % 4 == 1:
            roles = ["system", "user", "tool", "assistant"]
            turns = [{"role": draw.choice(roles), "content": text()} for _ in range(draw.randint(0, 4))]
            made = {"messages": [*turns, {"role": "assistant", "content": "a" + text()}]}
        elif at % 4 == 2:
            turns = [{"from": "human", "value": text()}, {"from": "gpt", "value": "a" + text()}]
            made = {"conversations": turns, "system": text()}
        else:
            made = {"prompt": text(), "completion": "a" + text()}
        rows.append(made)
    keys = b"".join(Dataset.from_rows(rows[kind::4]).keys.tobytes() for kind in range(4))
    assert hashlib.blake2b(keys, digest_size=16).hexdigest() == "df381e7c3a29a359f59ab1e91f87860f"


PAIR = {"human": "Q", "assistant": "A"}


@pytest.mark.parametrize(
    "call",
    [
        {"name": "tide", "args": BREST, "id": "1", "type": "tool_call"},  # LangChain
        {"name": "tide", "input": BREST, "id": "1", "type": "tool_use"},  # Anthropic
        {"name": "tide", "arguments": None, "parameters": BREST},
    ],
)
def test_arguments_are_read_under_each_of_their_names(call):
    assert said(content="", tool_calls=[call]) == CALLED
    assert said(content=f"<tool_call>\n{json.dumps(call)}\n</tool_call>").count("Brest") == 1


def pairs(*items):
    (read,) = Dataset.from_rows([{"conversations": list(items)}], on_bad_rows="stop")
    return read.messages


def test_a_pair_says_of_its_answer_what_a_turn_does():
    first, bad, _, last = pairs(PAIR | {"weight": 0}, {"human": "Q2", "assistant": "A", "thinking": "hm"})
    assert (first.content, bad.trained) == ("Q", False)
    assert (last.content, last.trained) == (THOUGHT, True)
    assert [m.role for m in pairs(PAIR | {"system": "S"})] == ["system", "user", "assistant"]
    assert pairs(PAIR | {"weight": 1, "system": ""}) == pairs(PAIR)
    with pytest.raises(InputError, match=r"every assistant turn .* \('train' is False\)"):
        pairs(PAIR | {"train": False})
    with pytest.raises(InputError, match=r"'weight' of turn 1 is 0\.5"):
        pairs(PAIR | {"weight": 0.5})
    seen = Dataset.from_rows([{"conversations": [PAIR | {"system": "S", "loss": True, "mood": "x"}]}])
    assert seen.source.notes == ["parts of turns that are kept and not read: mood"]
