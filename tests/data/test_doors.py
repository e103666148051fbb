"""The same rows through every door: files of each kind, lists of dicts, tables, data frames."""

from __future__ import annotations

import csv
import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=12)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)
IDS = (st.text("ab1#row", max_size=3), st.integers(0, 9), st.integers(0, 9).map(float))
COLUMNS = {  # one type a column, as tables have it
    "n": st.integers(-5, 5),
    "score": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "source": TEXTS,
    "system": TEXTS,
    "label": st.booleans(),
    "tags": st.lists(TEXTS, max_size=2),
    "meta": st.fixed_dictionaries(
        {"deep": st.lists(st.fixed_dictionaries({"k": st.none() | TEXTS}), max_size=2)}
    ),
    "tools": st.lists(st.fixed_dictionaries({"name": TEXTS}), max_size=1),
}


@st.composite
def tables(draw):
    """Draw rows of one table: turns whose contents are all texts or all parts, and some other columns."""
    contents = draw(st.sampled_from([TEXTS, PARTS]))
    more = draw(
        st.sampled_from([{}, {"name": st.none() | TEXTS}, {"loss_mask": st.none() | st.integers(0, 1)}])
    )
    roles = st.sampled_from(["user", "assistant", "system", "Human", "narrator"])
    turn = st.fixed_dictionaries({"role": roles, "content": contents}, optional=more)
    answer = st.fixed_dictionaries({"role": st.just("assistant"), "content": contents})
    turns = st.lists(turn, max_size=3)
    turns = turns | st.builds(lambda before, last: [*before, last], turns, answer)
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), max_size=3, unique=True))
    others = {name: st.none() | COLUMNS[name] for name in names}
    ids = st.none() | draw(st.sampled_from(IDS))
    row = st.fixed_dictionaries({"messages": turns}, optional={"id": ids, **others})
    # One row is good, or most tables would have no usable row and all doors say the same of them.
    first = {"messages": [said(role, _as_drawn(contents, "x")) for role in ("user", "assistant")]}
    return [first, *draw(st.lists(row, min_size=1, max_size=5))]


def _as_drawn(contents, text):
    return text if contents is TEXTS else [{"type": "text", "text": text}]


def told(rows):
    """Return what must agree: ids, turns, content keys, what was rejected why, and what is said of it."""
    turns = [[(m.role, m.content) for m in row.messages] for row in rows]
    return list(rows.ids), turns, rows.keys.tobytes(), [r.reason for r in rows.rejected], [*rows.source.notes]


def write(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.ipc.new_file(path, table.schema) as out:
        out.write_table(table)


def other_width(kind):
    """Return a type that differs by its width alone, however deep."""
    if pa.types.is_list(kind):
        return pa.large_list(kind.value_field.with_type(other_width(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(other_width(field.type)) for field in kind])
    return {pa.string(): pa.large_string(), pa.int64(): pa.int8(), pa.float64(): pa.float32()}.get(kind, kind)


class Frame:
    """A data frame: what exports Arrow and is no Arrow table."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class HubRows:
    """A Hugging Face Dataset: Arrow for who asks for it."""

    def __init__(self, table):
        self.table = table

    def with_format(self, kind):
        assert kind == "arrow"
        return self.table

    def __getitem__(self, key):
        raise NotImplementedError


def shards(table, folder):
    """Write a table as two files of a clone, of which the card says that they are the training split."""
    (folder / "hub").mkdir(parents=True)
    half = len(table) // 2
    wider = pa.schema([field.with_type(other_width(field.type)) for field in table.schema])
    pq.write_table(table[:half], folder / "hub" / "a.parquet")
    rest = table.take(list(range(half, len(table))))  # pyarrow cannot cast a slice of nested columns
    pq.write_table(rest.cast(wider), folder / "hub" / "b.parquet")
    pq.write_table(table, folder / "test.parquet")
    (folder / "README.md").write_text("---\nconfigs:\n- {config_name: x, data_files: hub/*}\n---\n")
    return folder


def through(door, rows, folder):
    if door == "dicts":
        return rows
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows])
    if door == "folder":
        return shards(table, folder / door)
    if door in {"table", "frame", "dataset"}:
        return {"table": table, "frame": Frame(table), "dataset": HubRows(table)}[door]
    path = folder / f"rows.{door}"
    if door in {"parquet", "arrow"}:
        write(table, path)
    elif door == "json":
        path.write_text(json.dumps({"version": "1", "data": rows}, ensure_ascii=False, indent=1))
    elif door == "csv":
        texts = [{n: _cell(row[n]) for n in names if n in row} for row in rows]
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(names))
            writer.writeheader()
            writer.writerows(texts)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _cell(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


@settings(max_examples=40)
@given(rows=tables())
def test_the_same_rows_through_every_door(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    found = {}
    for door in ("jsonl", "json", "csv", "parquet", "arrow", "folder", "table", "frame", "dataset", "dicts"):
        try:
            source = through(door, rows, folder)
            made = load(source, format="messages", on_bad_rows="keep-going", cache=folder / "cache")
            found[door] = told(made)
            # A row's own id is nobody else's, whatever stands in for those that have none.
            given_ids = {row.id: row.fields.get("id") for row in made}
            own = {
                str(int(i)) if isinstance(i, float) else i for i in given_ids.values() if i not in (None, "")
            }
            assert not {name for name, i in given_ids.items() if i in (None, "")} & set(map(str, own))
        except InputError as error:  # whatever one door says, the others must say too
            found[door] = type(error).__name__
    if isinstance(found["csv"], tuple):  # it says more of its lines, and has no empty lists
        found["csv"] = (*found["csv"][:4], found["jsonl"][4])
    if isinstance(found["folder"], tuple):  # and here what stands outside of the card's paths
        *notes, outside = found["folder"][4][1:] + found["folder"][4][:1]
        assert "does not name are not read" in outside
        found["folder"] = (*found["folder"][:4], notes)
    assert found == dict.fromkeys(found, found["jsonl"])


def nested(values, kind):
    return pa.table({"conversations": pa.array(values, kind)})


CHAT = [[{"from": "human", "value": "Name a fish."}, {"from": "gpt", "value": "Pike"}]]
WORDS = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.struct([("from", WORDS), ("value", pa.string())])),
        pa.large_list(pa.struct([("from", pa.string()), ("value", WORDS)])),
        pa.list_(pa.struct([("from", pa.large_string()), ("value", pa.string()), ("weight", pa.float64())])),
    ],
)
@pytest.mark.parametrize("door", ["parquet", "arrow", "table"])
def test_encoded_columns_are_read_however_deep(kind, door, tmp_path):
    try:
        table = nested(CHAT, kind)
    except pa.ArrowNotImplementedError:
        plain = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
        table = nested(CHAT, plain).cast(pa.schema([("conversations", kind)]))
    path = tmp_path / f"rows.{door}"
    if door != "table":
        write(table, path)
    [row] = load(table if door == "table" else path, cache=tmp_path / "cache")
    assert [(m.role, m.content) for m in row.messages] == [("user", "Name a fish."), ("assistant", "Pike")]


def said(role, text):
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pa.int32(), pa.float64()),
        (pa.int8(), pa.int64()),
        (pa.float32(), pa.float64()),
        (pa.null(), pa.int64()),
    ],
)
def test_shards_whose_types_differ_by_width_are_read(one, two, tmp_path):
    for name, kind, text in (("a", one, pa.string()), ("b", two, pa.large_string())):
        value = None if kind == pa.null() else 1
        turns = pa.list_(pa.struct([("role", text), ("content", text)]))
        table = pa.table(
            {
                "messages": pa.array([[said("user", "Q"), said("assistant", name)]], turns),
                "n": pa.array([value], kind),
            }
        )  # fmt: skip
        pq.write_table(table, tmp_path / f"{name}.parquet")
    rows = load(tmp_path, cache=tmp_path / "cache")
    assert [row.response for row in rows] == ["a", "b"]


def test_missing_values_of_data_frames_are_null():
    frame = [
        {"instruction": "Q", "input": float("nan"), "output": "A", "at": dt.date(2026, 1, 2)},
        {
            "instruction": np.str_("Q"),
            "input": None,
            "output": "A",
            "tags": np.array(["a", "b"]),
            "n": np.int64(3),
        },
    ]
    rows = Dataset.from_rows(frame)
    assert [row.prompt for row in rows] == ["Q", "Q"]
    assert rows[0].fields["at"] == "2026-01-02"
    assert (rows[1].fields["tags"], rows[1].fields["n"]) == (["a", "b"], 3)
    assert rows.keys[0].tolist() == rows.keys[1].tolist()


def test_a_frame_whose_column_mixes_types_is_read_as_its_rows():
    rows = [{"prompt": "Q", "answer": "A", "meta": {"k": 1}}, {"prompt": "R", "answer": "B", "meta": "z"}]

    class Mixed(Frame):
        def __arrow_c_stream__(self, requested_schema=None):
            raise pa.ArrowInvalid("cannot mix struct and non-struct, non-null values\nmore")

    class Records(Mixed):
        def to_dict(self, orient):
            assert orient == "records"
            return rows

    assert told(load(Records(None))) == told(load(rows))
    with pytest.raises(
        InputError, match=r"cannot be read as Arrow: cannot mix struct and non-struct, non-null"
    ):
        load(Mixed(None))


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64()])
def test_a_numeric_answer_is_its_text_at_every_door(kind, tmp_path):
    table = pa.table({"question": ["2 + 2?"], "answer": pa.array([4], kind)})
    number = table.column("answer")[0].as_py()
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(f"question,answer\n2 + 2?,{number}\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "2 + 2?", "answer": number}))
    doors = [table, table.to_pylist(), *(tmp_path / f"a.{end}" for end in ("parquet", "csv", "jsonl"))]
    assert [load(door)[0].response for door in doors] == [str(number)] * 5
    with pytest.raises(InputError, match="'answer' is true or false"):
        load([{"question": "Q", "answer": True}])


def test_shards_with_numbers_and_texts_as_answers_are_read(tmp_path):
    for name, answer in (("a", 4), ("b", "four")):
        pq.write_table(pa.table({"question": ["2 + 2?"], "answer": [answer]}), tmp_path / f"{name}.parquet")
    assert [row.response for row in load(tmp_path)] == ["4", "four"]


def test_binary_columns_are_text_where_they_are_utf_8(tmp_path):
    turn = pa.struct({"role": pa.string(), "content": pa.binary()})
    said = [{"role": "user", "content": "Où ?".encode()}, {"role": "assistant", "content": b"Ici."}]
    for table in (
        pa.table(
            {"prompt": pa.array(["Où ?".encode()], pa.binary()), "response": [b"Ici."], "raw": [b"\xff"]}
        ),
        pa.table({"messages": pa.array([said], pa.list_(turn))}),
    ):
        pq.write_table(table, tmp_path / "a.parquet")
        for door in (table, table.to_pylist(), tmp_path / "a.parquet"):
            [row] = load(door)
            assert (row.prompt, row.response) == ("Où ?", "Ici.")
    table = pa.table({"prompt": [b"Q", b"\xff\xfe"], "response": ["A", "B"]})
    for door in (table, table.to_pylist()):
        rows = load(door, on_bad_rows="keep-going")
        assert [row.prompt for row in rows] == ["Q"]
        assert [bad.reason for bad in rows.rejected] == [
            "'prompt' holds bytes that are not UTF-8, expected text"
        ]
