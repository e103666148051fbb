from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfilter import digests
from dfilter.data import containers, open_dataset
from dfilter.errors import InputError, SettingsError
from dfilter.progress import Silent
from dfilter.store import seal

SHAPES = {
    "alpaca": [
        {
            "instruction": f"Name {n} things.",
            "input": "" if n % 2 else "é\u2028",
            "output": f"[{n}]",
            "n": str(n),
        }
        for n in range(7)
    ],
    "messages": [
        {
            "id": f"m{n}",
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": f"A{n}"}],
        }
        for n in range(7)
    ],
    "conversations": [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": f"A{n}"}]}
        for n in range(7)
    ],
    "prompt-response": [{"prompt": "Q", "completion": f"A{n}", "set": {"exchange": "x"}} for n in range(7)],
}


def to_csv(rows):
    import csv

    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def to_arrow(rows, stream=False):
    out = io.BytesIO()
    arrow = pa.Table.from_pylist(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=3)
    return out.getvalue()


def to_parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=3)
    return out.getvalue()


def to_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def to_zst(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


CONTAINERS = {
    "rows.jsonl": to_lines,
    "rows.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "flat.json": lambda rows: json.dumps(rows).encode(),
    "lines.json": to_lines,
    "rows.ndjson": lambda rows: b"\xef\xbb\xbf" + to_lines(rows).replace(b"\n", b"\r\n\r\n"),
    "rows.jsonl.gz": lambda rows: gzip.compress(to_lines(rows)[:50]) + gzip.compress(to_lines(rows)[50:]),
    "rows.jsonl.zst": lambda rows: to_zst(to_lines(rows)[:50]) + to_zst(to_lines(rows)[50:]),
    "rows.json.gz": lambda rows: gzip.compress(json.dumps(rows, indent=1).encode()),
    "rows.parquet": to_parquet,
    "rows.arrow": to_arrow,
    "stream.arrow": lambda rows: to_arrow(rows, stream=True),
    "rows": to_lines,
    "packed": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "table": to_parquet,
}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def ingested(cache):
    """Return the cache's dataset folders and whatever else lies there."""
    return [p.name for p in cache.iterdir() if p.name != "hashes"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CONTAINERS)
def test_rows_come_back_whatever_they_came_in(name, shape, tmp_path, cache):
    path = tmp_path / name
    path.write_bytes(CONTAINERS[name](SHAPES[shape]))
    rows = open_dataset(path, cache=cache)
    again = open_dataset(path, cache=cache)
    assert rows.source.shape == shape
    assert rows.source == again.source
    assert rows.source.digest == hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()
    assert [row.fields for row in rows] == SHAPES[shape]
    assert list(again) == list(rows)
    assert [row.response for row in rows][3] in {"[3]", "A3"}
    assert rows.ids[6] == ("m6" if shape == "messages" else "6")
    for kind in ("jsonl", "parquet"):
        out = tmp_path / f"out.{kind}"
        rows.write(out, [1, 4], format=kind)
        kept = open_dataset(out, cache=cache)
        assert [row.fields for row in kept] == [SHAPES[shape][1], SHAPES[shape][4]]
        assert kept.source.shape == shape


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_csv_rows_are_text_and_line_numbers_are_those_of_the_file(name, tmp_path, cache):
    more = {"instruction": 'a "b",\n\nc\td', "input": "", "output": "x" * 200_000, "n": "007"}
    rows = [*SHAPES["alpaca"], more]
    data = to_csv(rows) + b'short,row\n\n\xff,,y,1\n"a"b,,z,1\nQ,,,1\nQ,,last,"1\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = open_dataset(tmp_path / name, cache=cache)
    assert [row.fields for row in found] == rows
    assert [(r.line, r.reason.split(":")[0]) for r in found.rejected] == [
        (12, "it has 2 fields, the header has 4"),
        (14, "invalid UTF-8"),
        (15, "invalid CSV"),
        (16, "the response ('output') is empty"),
        (17, "invalid CSV"),
    ]


def test_tsv_is_csv_with_tabs_and_without_quotes(tmp_path, cache):
    path = tmp_path / "rows.tsv"
    path.write_text('prompt\tanswer\nQ, "1"\t"A\tB"\n', encoding="utf-8")
    with pytest.raises(InputError, match="it has 3 fields, the header has 2"):
        open_dataset(path, cache=cache)
    # A quote in the middle of a field is text only where no quote began it.
    assert open_dataset(path, csv="quote=double", cache=cache)[0].fields == {
        "prompt": 'Q, "1"',
        "answer": "A\tB",
    }


@pytest.mark.parametrize("header", [b"\n", b"instruction,,output\n", b"output,output\n"])
def test_a_csv_file_needs_names_for_its_columns(header, tmp_path, cache):
    (tmp_path / "rows.csv").write_bytes(header + b"a,b,c\n")
    with pytest.raises(InputError, match="first line with the names"):
        open_dataset(tmp_path / "rows.csv", cache=cache)


def test_single_lines_are_written_back_byte_for_byte(tmp_path, cache):
    lines = [
        b'{"prompt":"Q","answer":"\\u00e9\\/","n":1.50,"n":12345678901234567890123, "z" : [ ] }',
        '{"answer": "B\u2028", "prompt": "Q\u0085"}'.encode(),
        b'{"prompt": "Q", "answer": "C", "id": "x"}',
        b'{"prompt": "Q", "answer": "D", "id": "x"}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    rows = open_dataset(tmp_path / "rows.jsonl", cache=cache)
    assert rows.ids == ["0", "1", "x", "x#2"]
    rows.write(tmp_path / "out.jsonl", [3, 1, 0])
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(lines[n] + b"\n" for n in (0, 1, 3))


def test_a_pretty_printed_row_is_written_on_one_line_with_equal_values(tmp_path, cache):
    row = {"prompt": "Q\n", "answer": "A", "n": 2**80, "x": 0.1, "deep": [{"a": []}, {}]}
    (tmp_path / "rows.json").write_text(json.dumps([row], indent=3))
    open_dataset(tmp_path / "rows.json", cache=cache).write(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 1
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row


def test_shards_are_one_dataset_in_the_order_of_their_names(tmp_path, cache):
    folder = tmp_path / "rows"
    for n, part in enumerate((SHAPES["alpaca"][:3], [], SHAPES["alpaca"][3:])):
        (folder / f"part{n}").mkdir(parents=True)
        (folder / f"part{n}" / f"{n}.jsonl").write_bytes(to_lines(part) + (b"oops\n" if n == 2 else b""))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "README.md").write_text("notes")
    (folder / ".hidden.jsonl").write_text("x")
    for source in (folder, str(folder / "*" / "*.jsonl"), f"{folder}/**/*.jsonl"):
        rows = open_dataset(source, cache=cache)
        assert [row.fields for row in rows] == SHAPES["alpaca"]
        assert rows.ids == [str(n) for n in range(7)]
        ((bad),) = rows.rejected
        assert (bad.line, Path(bad.file).name) == (5, "2.jsonl")


def test_parquet_shards_share_their_columns(tmp_path, cache):
    pq.write_table(pa.table({"prompt": ["Q"], "answer": ["A"]}), tmp_path / "a.parquet")
    more = pa.table({"answer": ["B"], "n": [1], "prompt": pa.array(["Q"]).dictionary_encode()})
    pq.write_table(more, tmp_path / "b.parquet")
    rows = open_dataset(str(tmp_path / "*.parquet"), cache=cache)
    assert [row.fields for row in rows] == [
        {"prompt": "Q", "answer": "A", "n": None},
        {"prompt": "Q", "answer": "B", "n": 1},
    ]
    pq.write_table(pa.table({"prompt": [3], "answer": ["A"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="different types"):
        open_dataset(str(tmp_path / "*.parquet"), cache=cache)


def test_hugging_face_s_own_metadata_and_nested_turns_survive_parquet(tmp_path, cache):
    arrow = pa.Table.from_pylist(SHAPES["messages"]).replace_schema_metadata({"huggingface": '{"info": {}}'})
    pq.write_table(arrow, tmp_path / "rows.parquet")
    open_dataset(tmp_path / "rows.parquet", cache=cache).write(tmp_path / "out.parquet", format="parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.equals(pq.read_table(tmp_path / "rows.parquet"), check_metadata=True)
    assert written.schema.metadata[b"huggingface"]


def broken(tmp_path):
    """Return (name to open, content or none, expected words)."""
    lines = to_lines(SHAPES["alpaca"]) * 3000
    return {
        "missing": ("gone.jsonl", None, "There is no file"),
        "missing glob": ("*.jsonl", None, "No file matches"),
        "empty": ("rows.jsonl", b"", "is empty"),
        "blank": ("rows.jsonl", b"\n \n", "holds no rows"),
        "blank json": ("rows.json", b" ", "holds no rows"),
        "empty array": ("rows.json", b"[]", "holds no rows"),
        "header only": ("rows.csv", b"prompt,answer\n", "holds no rows"),
        "unknown": ("rows.bin", b"\x00\x01", "of no format that dfilter reads"),
        "prose": ("notes.txt", b"Dear all,\n", "of no format that dfilter reads"),
        "no usable row": ("rows.jsonl", b"oops\n\n{}\n", "no usable row|no shape"),
        "all bad": (
            "rows.jsonl",
            b"oops\n\n{\n",
            r"no usable row among 2\. Line 1 cannot be used: invalid JSON",
        ),
        "no shape": ("rows.jsonl", b'{"question": "Q"}\n', "their columns are: question"),
        "utf-16": ("rows.jsonl", "{}".encode("utf-16"), "UTF-16"),
        "cut gzip": ("rows.jsonl.gz", gzip.compress(lines)[:-2000], "cut off"),
        "bad gzip": ("rows.jsonl.gz", lines, "cannot be read"),
        "spoilt gzip": ("rows.jsonl.gz", gzip.compress(lines)[:200] + b"x" * 400, "cannot be read|cut off"),
        "cut zstd": ("rows.jsonl.zst", to_zst(lines)[:-500], "cannot be read|cut off"),
        "bad zstd": ("rows.jsonl.zst", lines, "cannot be read"),
        "bad parquet": ("rows.parquet", b"PAR1" + b"x" * 100, "cannot be read as parquet"),
        "cut arrow": ("rows.arrow", to_arrow(SHAPES["alpaca"])[:300], "cannot be read as arrow"),
        "parquet without rows": (
            "rows.parquet",
            to_parquet([{"prompt": "Q", "answer": ""}]),
            r"no usable row among 1\. Line 1",
        ),
    }


@pytest.mark.parametrize("case", list(broken(None)))
def test_what_cannot_be_used_is_one_clear_sentence(case, tmp_path, cache):
    name, content, words = broken(tmp_path)[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_dataset(tmp_path / name, cache=cache)
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not cache.exists() or ingested(cache) == []


def test_folders_without_rows_or_with_several_kinds_are_refused(tmp_path, cache):
    folder = tmp_path / "rows"
    folder.mkdir()
    with pytest.raises(InputError, match="holds no file of rows"):
        open_dataset(folder, cache=cache)
    (folder / "a.jsonl").write_bytes(to_lines(SHAPES["alpaca"]))
    (folder / "b.csv").write_bytes(to_csv(SHAPES["alpaca"]))
    with pytest.raises(InputError, match=r"several kinds \(csv, json\)"):
        open_dataset(folder, cache=cache)
    (folder / "b.csv").unlink()
    (folder / "a.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        open_dataset(folder, cache=cache)
    with pytest.raises(InputError, match="neither a file nor a folder"):
        open_dataset("/dev/null", cache=cache)


def test_a_file_that_expands_like_no_text_does_is_refused(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(containers, "EXPANSION_FREE", 1 << 20)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(InputError, match="300 times its size"):
        open_dataset(tmp_path / "rows.jsonl.gz", cache=cache)


def test_rejected_rows_come_back_from_the_cache_and_stop_still_stops(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "Q", "answer": "A"}\n\noops \xff\n{"prompt": 1, "answer": "A"}\n')
    path.write_bytes(path.read_bytes() + b'{"prompt": "Q", "answer": "B"}\n')
    with pytest.raises(InputError, match="Line 3 cannot be used: invalid UTF-8"):
        open_dataset(path, cache=cache, on_bad_rows="stop")
    first = list(open_dataset(path, cache=cache).rejected)
    rows = open_dataset(path, cache=cache)
    assert list(rows.rejected) == first
    assert [(r.line, r.reason) for r in first] == [
        (3, "invalid UTF-8: byte 0xff at position 6"),
        (4, "'prompt' is a number, expected text"),
    ]
    rows.write_rejected(tmp_path / "rejected.jsonl")
    assert json.loads((tmp_path / "rejected.jsonl").read_text().splitlines()[0])["raw"] == "oops \\xff"
    with pytest.raises(InputError, match="Line 3 cannot be used: invalid UTF-8"):
        open_dataset(path, cache=cache, on_bad_rows="stop")


def cut_files():
    """Files that end too early, by name, and how many of their rows stand before the end."""
    rows = SHAPES["alpaca"] * 500
    lines, array = to_lines(rows), json.dumps(rows).encode()
    stream = to_arrow(rows, stream=True)
    return {
        "rows.jsonl": lines[:-20],
        "half.jsonl": lines[: len(lines) // 2].rpartition(b"}")[0],
        "utf8.jsonl": lines + '{"instruction": "é'.encode()[:-1],
        "inside.json": array[:-30],
        "between.json": array[:-1],
        "comma.json": array[: array.rindex(b"{")],
        "quote.json": array.replace(b'"[3]"', b'"[3]', 1),
        "rows.jsonl.gz": gzip.compress(lines)[:-40],
        "rows.json.gz": gzip.compress(array)[:-40],
        "rows.csv.gz": gzip.compress(to_csv(rows))[:-400],
        "rows.arrow": stream[: len(stream) * 3 // 4],
    }


@pytest.mark.parametrize("name", list(cut_files()))
def test_half_an_input_is_no_input_unless_it_is_asked_for(name, tmp_path, cache):
    path = tmp_path / name
    path.write_bytes(cut_files()[name])
    for _ in range(2):
        with pytest.raises(InputError, match=r"damaged or cut off: .* rows? stand before that") as caught:
            open_dataset(path, cache=cache)
        assert caught.value.exit_code == 2
        assert "--on-bad-rows keep-going" in str(caught.value)
    assert ingested(cache) == []
    rows = open_dataset(path, cache=cache, on_bad_rows="keep-going")
    assert [row.fields for row in rows] == (SHAPES["alpaca"] * 500)[: len(rows)]
    assert len(rows.rejected) == 1
    assert f"; {len(rows):,} rows stand before that" in str(caught.value)
    with pytest.raises(InputError, match="stand before that"):  # nor is it one once it is stored
        open_dataset(path, cache=cache)


def test_whole_files_are_not_taken_for_cut_ones(tmp_path, cache):
    lines = to_lines(SHAPES["alpaca"])
    whole = {
        "newline.jsonl": lines,
        "none.jsonl": lines.rstrip(b"\n"),
        "blank.jsonl": lines + b"  ",
        "prose.jsonl": lines + b"oops",
        "closed.jsonl": lines + b'{"instruction": }',
        "middle.jsonl": b'{"instruction": "\n' + lines,
        "rows.json": json.dumps(SHAPES["alpaca"]).encode(),
        "spaces.json": json.dumps(SHAPES["alpaca"]).encode() + b"\n\n",
    }
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
        assert len(open_dataset(tmp_path / name, cache=cache)) == 7, name


@pytest.mark.parametrize(
    "whole",
    [
        {"data": SHAPES["alpaca"]},
        {"version": "1.0", "n": 7, "ok": True, "rows": SHAPES["alpaca"], "about": {"a": {"b": 1}}},
        {"examples": SHAPES["messages"]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_the_rows_may_stand_in_an_object(whole, indent, tmp_path, cache):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(whole, indent=indent) + "\n")
    rows = open_dataset(path, cache=cache)
    [expected] = [value for value in whole.values() if isinstance(value, list)]
    assert [row.fields for row in rows] == expected
    assert not rows.rejected
    path.write_text(json.dumps(whole)[:-40])
    with pytest.raises(InputError, match="damaged or cut off"):
        open_dataset(path, cache=cache)


def test_objects_with_a_list_each_are_rows_of_their_own(tmp_path, cache):
    path = tmp_path / "rows.json"
    path.write_bytes(to_lines([{"messages": SHAPES["messages"][0]["messages"], "data": [1]}] * 3))
    assert len(open_dataset(path, cache=cache)) == 3


def test_a_file_of_which_more_than_half_is_rejected_is_refused(tmp_path, cache):
    good, bad = to_lines(SHAPES["alpaca"][:2]), b'oops\n{"instruction": "Q", "output": ""}\n'
    (tmp_path / "even.jsonl").write_bytes(good + bad)
    assert len(open_dataset(tmp_path / "even.jsonl", cache=cache)) == 2
    path = tmp_path / "most.jsonl"
    path.write_bytes(good + bad + b"oops\n")
    words = r"3 of 5 rows cannot be used: invalid JSON: expected a value at character 1 \(2\); the response"
    with pytest.raises(InputError, match=words):
        open_dataset(path, cache=cache)
    assert len(open_dataset(path, cache=cache, on_bad_rows="keep-going")) == 2
    with pytest.raises(InputError, match=words):
        open_dataset(path, cache=cache)
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jsonl").write_bytes(to_lines(SHAPES["alpaca"]))
    (folder / "5.jsonl").write_bytes(b"oops\n" * 3)
    with pytest.raises(InputError, match=r"5\.jsonl: 3 of 3 rows cannot be used"):
        open_dataset(folder, cache=cache)


def test_a_file_that_is_removed_while_it_is_read_is_named(tmp_path, cache, monkeypatch):
    from dfilter.data import read

    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]))
    real = read.items_of

    def removed(*how):
        yield from real(*how)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(read, "items_of", removed)
    with pytest.raises(InputError, match=r"rows\.jsonl was removed while it was read"):
        open_dataset(path, cache=cache)


def test_the_cache_follows_content_and_settings(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "Q", "response": "A", "answer": "B"}
    path.write_bytes(to_lines([row]))
    assert open_dataset(path, cache=cache)[0].response == "A"
    assert open_dataset(path, cache=cache, mapping={"response": "answer"})[0].response == "B"
    assert len(ingested(cache)) == 2
    state = path.stat()
    path.write_bytes(to_lines([row]).replace(b'"A"', b'"C"'))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # same size, same time, other content
    assert open_dataset(path, cache=cache)[0].response == "C"
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    before = ingested(cache)
    assert open_dataset(copy, cache=cache)[0].response == "C"
    assert ingested(cache) == before


def test_a_file_written_twice_within_one_tick_is_hashed_twice(tmp_path, cache, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines([{"prompt": "Q", "answer": "A"}]))
    from dfilter.data import read

    state = [path.stat().st_size, time.time_ns(), time.time_ns(), 1, 1]
    monkeypatch.setattr(read, "state_of", lambda _: state)
    assert open_dataset(path, cache=cache)[0].response == "A"
    path.write_bytes(to_lines([{"prompt": "Q", "answer": "B"}]))
    assert open_dataset(path, cache=cache)[0].response == "B"


def test_a_settled_file_is_not_hashed_again(tmp_path, cache, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]))
    from dfilter.data import read

    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))
    open_dataset(path, cache=cache)
    monkeypatch.setattr(read.hashlib, "blake2b", _only_small(hashlib.blake2b))
    assert len(open_dataset(path, cache=cache)) == 7


def _only_small(real):
    def blake2b(*args, **options):
        assert args, "a file's content is being hashed"
        return real(*args, **options)

    return blake2b


def flip(file):
    """Flip a bit in the middle, where nothing but a checksum shows it."""
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("spoil", ["rows.arrow", "ids.arrow", "source.json", "rejected.jsonl", "seal.json"])
@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: file.write_bytes(b"spoilt"),
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        Path.unlink,
    ],
)
def test_a_damaged_cache_is_made_again_with_a_line(damage, spoil, tmp_path, cache, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]) + b"oops\n")
    open_dataset(path, cache=cache)
    (folder,) = ingested(cache)
    before = files_of(cache / folder)
    damage(cache / folder / spoil)
    said = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", said.append)
    rows = open_dataset(path, cache=cache, progress=progress)
    assert [row.fields for row in rows] == SHAPES["alpaca"]
    assert [r.line for r in rows.rejected] == [8]
    assert ingested(cache) == [folder]
    assert files_of(cache / folder) == before
    (line,) = said
    assert line.startswith(f"The stored copy of {path} is damaged ({spoil} ")


def test_a_verified_copy_is_verified_again_when_it_changed_and_once_a_day(tmp_path, cache, monkeypatch):
    from dfilter.data import read

    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]))
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))
    looked = []
    monkeypatch.setattr(read, "flaw", lambda *where: looked.append(where) or seal.flaw(*where))

    def found():
        looked.clear()
        assert [row.fields for row in open_dataset(path, cache=cache)] == SHAPES["alpaca"]
        return len(looked)

    open_dataset(path, cache=cache)
    (folder,) = ingested(cache)
    assert found() == 0
    flip(cache / folder / "rows.arrow")
    assert found() > 1  # seen, and seen again under the lock before it is made anew
    assert found() == 0
    file = cache / folder / "ids.arrow"
    state = digests.state_of(file)
    flip(file)  # as a disk does, which changes no state
    monkeypatch.setattr(read, "state_of", lambda path: state if path == file else digests.state_of(path))
    open_dataset(path, cache=cache)
    assert not looked
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + read.DAY_NS)
    assert found() > 1
    assert found() == 0


def test_a_store_that_may_only_be_read_is_opened(tmp_path, cache, monkeypatch):
    from dfilter.data import read

    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]))
    open_dataset(path, cache=cache)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(read, "write_checked", refused)
    assert len(open_dataset(path, cache=cache)) == 7


def test_stored_rows_that_changed_places_are_read_again(tmp_path, cache):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_bytes(to_lines([{"prompt": "Q", "answer": path.name}]))
        open_dataset(path, cache=cache)
    first, second = (cache / name for name in ingested(cache))
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert [open_dataset(path, cache=cache)[0].response for path in paths] == ["a.jsonl", "b.jsonl"]


def test_a_remembered_hash_leads_to_no_other_file(tmp_path, cache, monkeypatch):
    from dfilter.data import read

    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))
    mine, theirs = tmp_path / "mine.jsonl", tmp_path / "theirs.jsonl"
    for path in (mine, theirs):
        path.write_bytes(to_lines([{"prompt": "Q", "answer": path.name}]))
        open_dataset(path, cache=cache)
    entries = {json.loads(file.read_text())["path"]: file for file in (cache / "hashes").iterdir()}
    known, other = entries[str(mine)], entries[str(theirs)]
    whole, another = known.read_text(), other.read_text()
    digest = json.loads(whole)["found"]
    for wrong in (
        another,
        whole.replace(digest, json.loads(another)["found"]),
        another.replace("theirs.jsonl", "mine.jsonl"),
        "[]",
        "{}",
        "null",
        "",
    ):
        known.write_text(wrong)
        assert open_dataset(mine, cache=cache)[0].response == "mine.jsonl"
        assert json.loads(known.read_text())["found"] == digest
    known.write_text(another)  # whole in itself, and of a file that looks the same
    monkeypatch.setattr(read, "state_of", lambda _: json.loads(another)["states"][0])
    assert open_dataset(mine, cache=cache)[0].response == "mine.jsonl"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, cache, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]))
    from dfilter.data import read

    real = read.items_of

    def grows(*how):
        yield from real(*how)
        with path.open("ab") as out:
            out.write(b"more\n")

    monkeypatch.setattr(read, "items_of", grows)
    with pytest.raises(InputError, match="changed while it was read"):
        open_dataset(path, cache=cache)
    assert ingested(cache) == []


def test_unknown_settings_are_refused_before_anything_is_kept(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_lines(SHAPES["alpaca"]))
    with pytest.raises(SettingsError, match="Did you mean 'alpaca'"):
        open_dataset(path, cache=cache, format="alpacas")
    with pytest.raises(SettingsError, match="field to map"):
        open_dataset(path, cache=cache, mapping={"outputs": "x"})
    assert ingested(cache) == []


def test_good_rows_behind_two_thousand_damaged_lines_are_found(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"oops\n" * 2000 + to_lines(SHAPES["alpaca"]))
    rows = open_dataset(path, cache=cache, on_bad_rows="keep-going")
    assert [row.fields for row in rows] == SHAPES["alpaca"]
    assert (rows.ids[0], len(rows.rejected)) == ("2000", 2000)


def test_a_line_of_65_mb_is_rejected_and_its_neighbours_are_kept(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    good = to_lines(SHAPES["alpaca"][:1])
    path.write_bytes(good + b'{"instruction": "' + b"x" * (65 << 20) + b'"}\n' + good)
    rows = open_dataset(path, cache=cache)
    assert rows.ids == ["0", "2"]
    ((bad),) = rows.rejected
    assert (bad.line, bad.reason, len(bad.raw)) == (2, "it is longer than 64 MB", 1000)


BAD_LINES = [
    b"",
    b"oops",
    b"{}",
    b"[]",
    b'{"instruction": "Q", "output": ""}',
    b'{"instruction": "Q", "output": NaN}',
    b'{"instruction": "Q", "output": "A", "x": "\\udfff"}',
    b'{"instruction": "Q", "output": "A", "x": "\xc3"}',
    b'{"instruction": "Q"}',
    b'{"output": "A", "instruction": 1}',
    b'{"instruction": "Q", "output": "A"',
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.none() | st.sampled_from(BAD_LINES), min_size=1, max_size=12), crlf=st.booleans())
def test_good_rows_come_in_order_and_bad_ones_with_their_lines(plan, crlf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    good = {n: {"instruction": f"Q{n}", "output": "A"} for n, bad in enumerate(plan) if bad is None}
    lines = [json.dumps(good[n]).encode() if n in good else bad for n, bad in enumerate(plan)]
    (folder / "rows.jsonl").write_bytes((b"\r\n" if crlf else b"\n").join(lines) + b"\n")
    if not good:
        with pytest.raises(InputError):
            open_dataset(folder / "rows.jsonl", cache=folder / "cache")
        return
    rows = open_dataset(folder / "rows.jsonl", cache=folder / "cache", on_bad_rows="keep-going")
    assert [row.fields for row in rows] == list(good.values())
    assert [r.line for r in rows.rejected] == [n + 1 for n, bad in enumerate(plan) if bad]
    numbered = [n for n, bad in enumerate(plan) if bad is None or bad]
    assert rows.ids == [str(numbered.index(n)) for n in good]


OPEN = """
import sys
from pathlib import Path
from dfilter.data import open_dataset
rows = open_dataset(sys.argv[1], cache=Path(sys.argv[2]))
print(len(rows), sum(len(row.text) for row in rows), rows.source.rejected)
"""


def start(path, cache):
    command = [sys.executable, "-c", OPEN, str(path), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def many(path, count=30_000):
    with path.open("wb") as out:
        for n in range(count):
            out.write(to_lines([{"prompt": f"Q{n}", "answer": "A" * (n % 500)}]))
    return count - count // 500


def test_two_processes_at_once_share_one_dataset(tmp_path, cache):
    path = tmp_path / "rows.jsonl"
    usable = many(path)
    answers = {process.communicate()[0] for process in [start(path, cache) for _ in range(3)]}
    assert len(answers) == 1
    assert answers.pop().startswith(f"{usable} ")
    assert len(ingested(cache)) == 1


# Arrow writes its batches unseen by Python, so each says that it is written.
STEPS = """
from dfilter.data import ingest
flush = ingest.Intake.flush
def told(self, structs=None):
    flush(self, structs)
    sys.audit("dying.step")
ingest.Intake.flush, ingest.BATCH_ROWS = told, 500
"""


def kill_and_reopen(tmp_path, dying, times):
    path, cache = tmp_path / "rows.jsonl", tmp_path / "killed"
    usable = many(path)

    def command(cache):
        return [sys.executable, "-c", OPEN.replace("rows =", f"{STEPS}rows =", 1), str(path), str(cache)]

    changes = dying.whole(command(tmp_path / "calm"))
    for _ in range(times):
        dying.killed(command(cache), changes, 1)
        for folder in cache.iterdir() if cache.exists() else ():  # whatever bears a name is whole
            assert folder.name.startswith(".") or folder.name == "hashes" or (folder / "source.json").exists()
    rows = open_dataset(path, cache=cache)
    assert len(rows) == usable
    assert ingested(cache) == [name for name in ingested(cache) if not name.startswith(".")]


@pytest.mark.kills
def test_killed_while_reading_leaves_nothing_that_looks_whole(tmp_path, dying):
    kill_and_reopen(tmp_path, dying, times=2)


@pytest.mark.kills
@pytest.mark.soak
def test_killed_thirty_times_while_reading(tmp_path, dying):
    kill_and_reopen(tmp_path, dying, times=30)


@pytest.mark.soak
def test_two_hundred_thousand_damaged_rows_become_a_dataset(tmp_path, cache):
    draw = random.Random(2)
    lines = [
        draw.choice(BAD_LINES[1:]) if n % 2 else json.dumps({"instruction": f"Q{n}", "output": "A"}).encode()
        for n in range(400_000)
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    rows = open_dataset(tmp_path / "rows.jsonl", cache=cache)
    assert len(rows) == len(rows.rejected) == 200_000
    assert [r.line for r in rows.rejected] == list(range(2, 400_001, 2))


def test_alpaca_itself_reads_whole(test_data, tmp_path, cache):
    path = test_data / "alpaca" / "alpaca_data.json"
    rows = open_dataset(path, cache=cache)
    published = json.loads(path.read_text())
    assert (rows.source.read, len(rows), rows.source.rejected) == (52_002, 51_974, 28)
    assert all(published[r.line - 1]["output"].strip() == "" for r in rows.rejected)
    assert all(row.fields == published[int(row.id)] for row in rows)


def test_lima_s_conversations_read_whole(test_data, cache):
    rows = open_dataset(test_data / "lima" / "lima_1k.json", cache=cache)
    assert (len(rows), rows.source.shape, rows.ids[0]) == (1000, "conversations", "identity_0")
