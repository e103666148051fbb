"""The same rows through every door: files of each kind, lists of dicts, tables, data frames."""

from __future__ import annotations

import csv
import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.data import load
from dfilter.data.dataset import Dataset

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=12)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXTS}),
    min_size=1,
    max_size=4,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"messages": TURNS, "id": st.text("ab1", max_size=2)},
        optional={"n": st.none() | st.integers(-5, 5), "source": st.none() | TEXTS, "tags": st.lists(TEXTS)},
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def told(rows):
    """Return what must agree: ids, turns, content keys, and what was rejected why."""
    turns = [[(m.role, m.content) for m in row.messages] for row in rows]
    return list(rows.ids), turns, rows.keys.tobytes(), [(r.line, r.reason) for r in rows.rejected]


def write(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.ipc.new_file(path, table.schema) as out:
        out.write_table(table)


def through(door, rows, folder):
    if door == "dicts":
        return rows
    table = pa.Table.from_pylist(
        [{"id": None, "n": None, "source": None, "tags": None} | row for row in rows]
    )
    if door == "table":
        return table
    path = folder / f"rows.{door}"
    if door in {"parquet", "arrow"}:
        write(table, path)
    elif door == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    elif door == "csv":
        texts = [{**row, "messages": json.dumps(row["messages"])} for row in rows]
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, ["id", "messages"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(texts)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@given(rows=ROWS)
def test_the_same_rows_through_every_door(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    found = {}
    for door in ("jsonl", "json", "csv", "parquet", "arrow", "table", "dicts"):
        try:
            made = load(
                through(door, rows, folder),
                format="messages",
                on_bad_rows="keep-going",
                cache=folder / "cache",
            )
            found[door] = told(made)
        except Exception as error:  # noqa: BLE001 - whatever one door says, the others must say too
            found[door] = type(error).__name__
    if isinstance(found["csv"], tuple):  # its places are lines of the file
        found["csv"] = (*found["csv"][:3], [reason for _, reason in found["csv"][3]])
        assert found["csv"] == (*found["jsonl"][:3], [reason for _, reason in found["jsonl"][3]])
    else:
        assert found["csv"] == found["jsonl"]
    assert {door: found[door] for door in found if door != "csv"} == {
        door: found["jsonl"] for door in found if door != "csv"
    }


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
