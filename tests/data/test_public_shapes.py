"""Files as public projects shape them, in tests/shapes: each is read right, or refused with what to do.

What their rows must be stands in tests/shapes/expected.json, and the table of docs/shapes.md says what
becomes of each; ``python tests/data/test_public_shapes.py`` writes it anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfilter.data import load
from dfilter.errors import InputError

TESTS = Path(__file__).parents[1]
SHAPES = TESTS / "shapes"
PAGE = TESTS.parent / "docs" / "shapes.md"
EXPECTED = json.loads((SHAPES / "expected.json").read_text(encoding="utf-8"))

WORDS = pa.dictionary(pa.int32(), pa.string())
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
PADDED = pa.struct(
    [
        *(("role", pa.large_string()), ("content", pa.large_string()), ("name", pa.null())),
        ("tool_calls", pa.list_(pa.struct([("id", pa.string())]))),
    ]
)  # fmt: skip
SAID = [{"role": "user", "content": "Name a gull."}, {"role": "assistant", "content": "The skua."}]
ROWS = [["user: Name a gull.", "assistant: The skua."]]


def column(values, kind):
    return pa.chunked_array([pa.array(values, kind)])


def exported():
    """Return tables as `datasets`, pandas and others write them, each with what it stands for."""
    pair = [
        column(["Name a gull."], pa.large_string()),
        column(["The skua."], pa.string()).dictionary_encode(),
    ]
    by_field = {"from": ["human", "gpt"], "value": ["Name a gull.", "The skua."]}
    mapped = [list(turn.items()) for turn in SAID]
    return {
        "list of structs": pa.table({"messages": column([SAID], pa.list_(TURN))}),
        "structs padded with nulls": pa.table({"messages": column([SAID], pa.large_list(PADDED))}),
        "struct of lists": pa.table({"conversations": pa.array([by_field])}),
        "turns as maps": pa.table(
            {"messages": column([mapped], pa.list_(pa.map_(pa.string(), pa.string())))}
        ),
        "large strings, dictionaries": pa.table({"prompt": pair[0], "response": pair[1]}),
        "two turns, fixed size": pa.table({"messages": column([SAID], pa.list_(TURN, 2))}),
        "string views": pa.table(
            {
                "prompt": column(["Name a gull."], pa.string_view()),
                "answer": column(["The skua."], pa.string_view()),
            }
        ),
        "turns as JSON text": pa.table({"messages": column([json.dumps(SAID)], pa.string())}),
        "floats as ids, a column of nulls": pa.table(
            {
                "id": pa.array([7.0]),
                "prompt": ["Name a gull."],
                "answer": ["The skua."],
                "system": pa.nulls(1),
            }
        ),
    }


def becomes(source, cache):
    """Return the sentence of the table about one file or table."""
    try:
        rows = load(source, cache=cache)
    except InputError as error:
        said = str(error).replace(f"{source}: ", "").replace(f"{source} ", "it ")
        return f"refused: {said[:1].lower()}{said[1:]}"
    read = [name for name in rows.source.columns.values() if name in rows.columns]
    parts = [f"read as {rows.source.shape}: {', '.join(read)}"]
    refused = dict.fromkeys(rejection.reason for rejection in rows.rejected)
    parts += [f"rows are rejected where {reason}" for reason in refused]
    return "; ".join([*parts, *(n.replace(f"{Path(str(source)).name}: ", "") for n in rows.source.notes)])


def page(cache):
    """Return docs/shapes.md as the files make it."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition("\n| ")
    lines = ["| shape | file in tests/shapes | what becomes of it |", "|---|---|---|"]
    for name, entry in EXPECTED.items():
        lines.append(f"| {entry['what']} | {name} | {becomes(SHAPES / name, cache)} |")
    for name, table in exported().items():
        lines.append(f"| Parquet: {name} | | {becomes(table, cache)} |")
    return head + "\n" + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_every_file_has_an_expectation():
    assert {path.name for path in SHAPES.iterdir()} == {*EXPECTED, "expected.json"}
    assert len(EXPECTED) >= 30


@pytest.mark.parametrize("name", EXPECTED)
def test_a_public_shape_is_read_right_or_refused_with_what_to_do(name, cache):
    if refused := EXPECTED[name].get("refused"):
        with pytest.raises(InputError) as caught:
            load(SHAPES / name, cache=cache)
        assert refused in str(caught.value)
        return
    rows = load(SHAPES / name, cache=cache)
    assert [[f"{m.role}: {m.content}" for m in row.messages] for row in rows] == EXPECTED[name]["rows"]


@pytest.mark.parametrize("name", exported())
@pytest.mark.parametrize("door", ["table", "parquet", "arrow"])
def test_exported_tables_are_read_right(name, door, tmp_path):
    source = table = exported()[name]
    if door == "parquet":
        source = tmp_path / "rows.parquet"
        pq.write_table(table, source)
    if door == "arrow":
        source = tmp_path / "rows.arrow"
        with pa.ipc.new_stream(source, table.schema) as out:
            out.write_table(table)
    rows = load(source, cache=tmp_path / "cache")
    assert [[f"{m.role}: {m.content}" for m in row.messages] for row in rows] == ROWS
    assert not rows.source.notes
    rows.write(tmp_path / "back.parquet", format="parquet")
    assert load(tmp_path / "back.parquet", cache=tmp_path / "cache").keys.tolist() == rows.keys.tolist()


def test_the_page_says_what_becomes_of_each(cache):
    assert PAGE.read_text(encoding="utf-8") == page(cache)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(Path(folder)), encoding="utf-8")
