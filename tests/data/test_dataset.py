from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.data import Dataset, load
from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.types import Example, Message

ROWS = [
    {"id": f"r{n}", "prompt": f"Q{n}", "answer": f"A{n}", "task": "nli" if n % 3 else "qa", "meta": {"n": n}}
    for n in range(10)
]


@pytest.fixture
def rows():
    return Dataset.from_rows(ROWS)


def test_a_dataset_is_a_sequence_of_examples(rows):
    assert len(rows) == 10
    assert rows[3] == list(rows)[3] == rows[-7]
    assert rows[3].fields == ROWS[3]
    assert rows[3].prompt == "Q3"
    assert rows[3].response == "A3"
    with pytest.raises(IndexError):
        rows[10]


def test_ids_keys_and_lengths_are_those_of_the_examples(rows):
    view = rows.take(np.array([7, 2, 2]))
    for some in (rows, view, rows[2:5]):
        assert some.ids == [row.id for row in some]
        assert [key.tobytes() for key in some.keys] == [row.key for row in some]
        assert some.lengths.tolist() == [len(row.text) for row in some]
        assert pa.array(some.ids, pa.string()).to_pylist() == list(some.ids)
    assert rows.keys.shape == (10, 16)
    assert rows.keys.dtype == np.uint8


def test_a_view_of_a_view_counts_from_the_view(rows):
    view = rows.take([8, 5, 1]).take([2, 0, -2])
    assert view.ids == ["r1", "r8", "r5"]
    assert view.indices.tolist() == [1, 8, 5]
    assert view.column("task") == [ROWS[n]["task"] for n in (1, 8, 5)]
    assert view.positions(["r5", "r1"]).tolist() == [2, 0]
    with pytest.raises(IndexError):
        view.take([3])


def test_columns_reach_into_nested_ones_and_give_none_where_missing():
    rows = Dataset.from_rows([{**ROWS[0]}, {**ROWS[1], "meta": None}, {**ROWS[2], "extra": 1}])
    assert rows.column("meta/n") == [0, None, 2]
    assert rows.column("extra") == [None, None, 1]
    assert rows.columns == ("id", "prompt", "answer", "task", "meta", "extra")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("task=qa", [0, 3, 6, 9]),
        ("task!=qa", [1, 2, 4, 5, 7, 8]),
        (["task=qa", "meta/n!=6"], [0, 3, 9]),
        ("meta/n=3", [3]),
        ("meta/n=3.5", []),
        ("id = r4", [4]),
        (["task=qa", "task=nli"], []),
    ],
)
def test_where_keeps_the_rows_that_meet_every_condition(rows, condition, expected):
    assert rows.where(condition).tolist() == expected


def test_where_knows_true_null_lists_and_equal_signs():
    rows = Dataset.from_rows(
        [
            {"prompt": "Q", "answer": "A", "ok": True, "tags": ["a"], "x": "a=b"},
            {"prompt": "Q", "answer": "A", "ok": False, "x": 2.0},
        ]
    )
    assert rows.where("ok=true").tolist() == [0]
    assert rows.where("ok!=true").tolist() == [1]
    assert rows.where("tags=null").tolist() == [1]
    assert rows.where('tags=["a"]').tolist() == [0]
    assert rows.where("x=a=b").tolist() == [0]
    assert rows.where("x=2").tolist() == [1]


def test_where_names_the_known_columns_and_the_nearest(rows):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'task'.*id, meta, meta/n, prompt"):
        rows.where("tusk=qa")
    with pytest.raises(SettingsError, match="column=value"):
        rows.where("task")


def test_positions_name_ids_that_do_not_exist(rows):
    with pytest.raises(InputError, match=r"No row has the id 'x'.*begin with 'r0'"):
        rows.positions(["r1", "x"])


def test_repeated_ids_are_renamed_and_never_meet_an_existing_one():
    ids = ["a", "a", "a#2", "a", "b", "a#2", None, "6"]
    rows = Dataset.from_rows([{"id": i, "prompt": "Q", "answer": "A"} for i in ids])
    assert rows.ids == ["a", "a#3", "a#2", "a#4", "b", "a#2#2", "6#row", "6"]
    assert rows.source.duplicate_ids == 3
    assert [row.fields["id"] for row in rows] == ids


@given(ids=st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "a#2#2", "1", "2", "", None, 1, 2]), min_size=1))
def test_ids_are_unique_whatever_the_rows_bring(ids):
    rows = Dataset.from_rows([{"id": i, "prompt": "Q", "answer": "A"} for i in ids])
    given_ids = [str(i) if i else None for i in ids]
    brought = [i for i in given_ids if i is not None]
    assert len(set(rows.ids)) == len(ids)
    assert rows.source.duplicate_ids == len(brought) - len(set(brought))
    for n, name in enumerate(given_ids):
        if name is None:
            assert rows.ids[n] == (f"{n}#row" if str(n) in brought else str(n))
        elif name not in given_ids[:n]:
            assert rows.ids[n] == name


def test_rows_that_cannot_be_used_are_counted_and_the_others_keep_their_numbers():
    rows = Dataset.from_rows(
        [
            {"prompt": "Q", "answer": ""},
            {"prompt": "Q", "answer": "A"},
            7,
            {"prompt": "Q", "answer": "A", "x": float("nan")},
            {"prompt": "Q", "answer": "\ud800"},
            {"prompt": "Q", "answer": "A", "x": object},
            {"prompt": "Q", "answer": "A"},
        ],
        on_bad_rows="keep-going",
    )
    assert rows.ids == ["1", "3", "6"]
    assert rows[1].fields["x"] is None  # a missing value, as data frames write it
    assert rows.source.read == 7
    assert rows.source.rejected == len(rows.rejected) == 4
    assert [r.line for r in rows.rejected] == [1, 3, 5, 6]


def test_stop_raises_at_the_first_bad_row():
    with pytest.raises(
        InputError, match=r"Line 2 cannot be used: the response \('answer'\) is empty"
    ) as caught:
        Dataset.from_rows([ROWS[0], {"prompt": "Q", "answer": " "}], on_bad_rows="stop")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("rows", [[], [{"prompt": "Q", "answer": ""}], [3]])
def test_no_usable_row_is_one_sentence(rows):
    with pytest.raises(InputError, match=r"holds no rows|no usable row among 1"):
        Dataset.from_rows(rows)


def test_examples_keep_messages_and_context_and_get_fields_that_say_the_same():
    same = Dataset.from_rows([{"instruction": "Q", "input": "X", "output": "A"}])[0]
    changed = Example(same.id + "b", (Message("user", "Q!"), Message("assistant", "A")), same.fields, "")
    rows = Dataset.from_rows([same, changed])
    assert rows[0] == same
    assert rows[1].messages == changed.messages
    assert rows[1].fields == {
        "id": "0b",
        "messages": [{"role": "user", "content": "Q!"}, {"role": "assistant", "content": "A"}],
    }


def test_a_rewritten_row_keeps_the_columns_that_are_not_its_text():
    row = Dataset.from_rows([{"id": "a", "prompt": "Q", "answer": "A", "task": "nli", "meta": {"n": 1}}])[0]
    changed = Example("a", (Message("user", "Q2"), Message("assistant", "A2")), row.fields)
    assert set(Dataset.from_rows([changed])[0].fields) == {"id", "messages", "task", "meta"}


def test_examples_without_a_response_are_rejected():
    good = Example("a", (Message("user", "Q"), Message("assistant", "A")), {})
    silent = Example("b", (Message("user", "Q"),), {})
    empty = Example("c", (Message("assistant", " "),), {})
    half = Example("d", (Message("assistant", "\ud800"),), {})
    rows = Dataset.from_rows([silent, good, empty, half], on_bad_rows="keep-going")
    assert rows.ids == ["a"]
    assert [r.line for r in rows.rejected] == [1, 3, 4]
    with pytest.raises(InputError, match="No usable row among 1"):
        Dataset.from_rows([silent])
    with pytest.raises(InputError, match="Line 1 cannot be used"):
        Dataset.from_rows([silent, good], on_bad_rows="stop")


def test_written_lines_are_the_rows_in_the_source_s_order(rows, tmp_path):
    path = tmp_path / "deep" / "kept.jsonl"
    rows.write(path, np.array([5, 1, 9]))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [ROWS[1], ROWS[5], ROWS[9]]
    rows.take([9, 1]).write(path)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["r1", "r9"]
    assert [p.name for p in path.parent.iterdir()] == ["kept.jsonl"]


def test_parquet_of_json_rows_has_their_columns_and_values(rows, tmp_path):
    rows.write(tmp_path / "kept.parquet", [2, 4], format="parquet")
    assert pq.read_table(tmp_path / "kept.parquet").to_pylist() == [ROWS[2], ROWS[4]]


@pytest.mark.parametrize("values", [[1, "x"], [2**70, 1], [{}, {}]])
def test_parquet_without_a_common_type_is_one_sentence(values, tmp_path):
    rows = Dataset.from_rows([{"prompt": "Q", "answer": "A", "x": value} for value in values])
    with pytest.raises(InputError, match="JSON Lines instead"):
        rows.write(tmp_path / "kept.parquet", format="parquet")
    assert not list(tmp_path.iterdir())


def table():
    n = 5
    return pa.table(
        {
            "id": pa.array(range(n), pa.int32()),
            "prompt": pa.array([f"Q{i}" for i in range(n)]).dictionary_encode(),
            "answer": pa.array(["A", "", None, "B", "C"], pa.large_string()),
            "when": pa.array([1_700_000_000_123_456_789 + i for i in range(n)], pa.timestamp("ns")),
            "day": pa.array([dt.date(2026, 1, 1 + i) for i in range(n)]),
            "score": pa.array([1.5, float("nan"), None, float("inf"), 2.0], pa.float32()),
            "blob": pa.array([b"\x00\xff"] * n),
            "tags": pa.array([["a"]] * n, pa.list_(pa.string())),
        }
    ).replace_schema_metadata({"note": "kept"})


def test_an_arrow_table_keeps_its_types_in_parquet(tmp_path):
    rows = Dataset.from_table(table())
    assert rows.ids == ["0", "3", "4"]
    assert [r.line for r in rows.rejected] == [2, 3]
    rows.write(tmp_path / "kept.parquet", [0, 2], format="parquet")
    found = pq.read_table(tmp_path / "kept.parquet")
    expected = table()
    expected = expected.set_column(1, "prompt", expected.column("prompt").cast(pa.string())).take([0, 4])
    assert found.equals(expected)
    assert found.schema.metadata[b"note"] == b"kept"


def test_an_arrow_table_s_values_are_json_where_they_are_looked_at(tmp_path):
    rows = Dataset.from_table(table())
    fields = rows[1].fields
    assert fields["score"] is None
    assert fields["day"] == "2026-01-04"
    assert fields["when"].startswith("2023-11-14")
    assert fields["blob"] == "AP8="
    assert rows.column("day") == ["2026-01-01", "2026-01-04", "2026-01-05"]
    assert list(rows)[1] == rows[1]
    rows.write(tmp_path / "kept.jsonl", [1])
    assert json.loads((tmp_path / "kept.jsonl").read_text()) == fields


def test_text_that_is_not_utf8_in_an_arrow_column_rejects_its_row():
    broken = pa.array([b"A", b"\xff", b"C"]).view(pa.binary())
    answers = pa.Array.from_buffers(pa.string(), 3, broken.buffers())
    rows = Dataset.from_table(pa.table({"prompt": ["Q", "Q", "Q"], "answer": answers}))
    assert rows.ids == ["0", "2"]
    assert [(r.line, r.reason) for r in rows.rejected] == [(2, "invalid UTF-8 in 'answer'")]


class HubDataset:
    """What a Hugging Face Dataset that was shuffled and cut does."""

    def __init__(self, arrow, indices, kind=None):
        self.arrow, self.indices, self.kind = arrow, indices, kind

    def with_format(self, type):  # noqa: A002
        return HubDataset(self.arrow, self.indices, type)

    def __getitem__(self, key):
        assert self.kind == "arrow"
        return self.arrow.take(self.indices)


def test_load_takes_what_users_have(rows, tmp_path):
    arrow = pa.Table.from_pylist(ROWS)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for given_rows in (ROWS, iter(ROWS), list(rows), arrow, arrow.to_reader(), path, str(path), rows):
        assert load(given_rows).ids == rows.ids
    assert load(HubDataset(arrow, [4, 2])).ids == ["r4", "r2"]
    with pytest.raises(InputError, match="a mapping of train, test"):
        load({"train": ROWS, "test": ROWS})
    with pytest.raises(InputError, match="Rows of type int"):
        load(3)
    with pytest.raises(UnknownNameError, match="Did you mean 'stop'"):
        load(ROWS, on_bad_rows="stopp")


def test_a_row_s_place_is_never_another_row_s_id():
    rows = [{"prompt": "Q", "answer": str(n)} for n in range(6)]
    rows[1]["id"], rows[2]["id"], rows[3]["id"] = "0", "4", "4"
    rows[5]["id"] = "4#row"
    found = Dataset.from_rows(rows)
    assert len(set(found.ids)) == 6
    assert [found.ids[n] for n in (0, 1, 2, 4, 5)] == ["0#row", "0", "4", "4#row#row", "4#row"]
    assert Dataset.from_rows([{"prompt": "Q", "answer": "A", "id": v} for v in (3.0, 2.5, float("inf"))]).ids


@pytest.mark.parametrize(
    ("value", "name"), [(3.0, "3"), (2.5, "2.5"), (7, "7"), ("x", "x"), (True, "0"), (-0.0, "0")]
)
def test_whole_floats_are_whole_numbers(value, name):
    assert Dataset.from_rows([{"prompt": "Q", "answer": "A", "id": value}]).ids == [name]
