"""CSV and TSV as people have them: quotes that are none, delimiters, lines that are no rows."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.data import open_dataset
from dfilter.data.csvtext import CsvRows, Dialect
from dfilter.data.rejects import Rejection
from dfilter.errors import InputError, SettingsError


def read(text, *, tabs=False, said=""):
    """Return the rows' values, the rejected lines with their reasons, and the notes."""
    data = text if isinstance(text, bytes) else text.encode()
    rows = CsvRows("rows", io.BytesIO(data), Dialect.parse(said), tabs=tabs)
    items = list(rows)
    good = [list(row.values()) for _, _, row in items if not isinstance(row, Rejection)]
    bad = [(row.line, row.reason) for _, _, row in items if isinstance(row, Rejection)]
    return good, bad, rows.notes


def counting(total, spoilt=None, mark="\t"):
    """Return a header and rows "What is N plus 1?", some with other answers."""
    answers = {n: f"It is {n + 1}." for n in range(total)} | (spoilt or {})
    return (
        "\n".join(["q" + mark + "a", *(f"What is {n} plus 1?{mark}{a}" for n, a in answers.items())]) + "\n"
    )


@pytest.mark.parametrize(
    "answer",
    ['"To be brief: 61.', '5" pipe', '"quoted"', 'he said ""', "'", '"', '"a" and "b', "{'a': \"b\"}"],
)
def test_tab_separated_text_is_not_quoted(answer):
    good, bad, notes = read(counting(200, {60: answer, 90: 'ninety-one"'}), tabs=True)
    assert (len(good), bad, notes) == (200, [], [])
    assert good[60][1] == answer


def test_quoted_tab_separated_text_is_read_when_it_is_said():
    text = 'q\ta\nQ1\t"line one\nline two"\nQ2\tA2\n'
    good, bad, notes = read(text, tabs=True)
    assert good == [["Q1", '"line one'], ["Q2", "A2"]]
    assert bad == [(3, "it has 1 fields, the header has 2")]
    assert "give --csv quote=double" in notes[0]
    assert read(text, tabs=True, said="quote=double")[0] == [["Q1", "line one\nline two"], ["Q2", "A2"]]


def test_lines_that_a_quote_glues_together_are_no_row():
    text = counting(200, {60: '"a pipe of 3', 90: 'a pipe of 5"'}, ",")
    good, bad, _ = read(text)
    [(line, reason)] = bad
    assert line == 62
    assert reason.startswith("a quoted field runs over 31 lines that would be rows by themselves")
    assert "--csv quote=none" in reason
    assert len(good) == 169
    assert len(read(text, said="quote=none")[0]) == 200


def test_a_few_lines_that_may_be_text_or_rows_are_kept_and_told_of():
    good, bad, notes = read('q,a\nQ1,"Do this.\nThen, do that."\nQ2,A2\n')
    assert good == [["Q1", "Do this.\nThen, do that."], ["Q2", "A2"]]
    assert not bad
    assert notes[0] == "rows: 4 lines hold 2 rows; 1 run over several lines"
    assert notes[1].startswith("rows, line 2: a quoted field runs over 2 lines that would be rows by")


def test_long_fields_that_are_text_are_text():
    poem = "One line, two commas, three.\n\nA line without\n- a list\n" * 30
    out = io.StringIO()
    csv.writer(out).writerows([["q", "a"], ["Q1", poem], ["Q2", 'say ""hi""']])
    assert read(out.getvalue())[:2] == ([["Q1", poem], ["Q2", 'say ""hi""']], [])


@pytest.mark.parametrize("line", [0, 3, 120, 199])
@pytest.mark.parametrize("others", ["none", "quoted", "all quoted", "over lines"])
def test_a_quote_that_never_closes_costs_one_row(line, others):
    forms = {"none": (), "quoted": range(0, 200, 7), "all quoted": range(200), "over lines": range(0, 200, 5)}
    answer = '"Well,\nit is\n\n{}, {}"' if others == "over lines" else '"Well, {}, {}."'
    spoilt = {n: answer.format(n, n + 1) for n in forms[others]}
    good, bad, _ = read(counting(200, {**spoilt, line: '"To be brief: one'}, ","))
    assert len(bad) == 1
    assert len(good) == 199
    assert "a quote in it is" in bad[0][1]


def test_text_behind_a_closing_quote_costs_its_own_row_however_many_lines_it_has():
    good, bad, _ = read('q,a\nQ1,"one\ntwo\n" three\nQ2,"A, 2"\n')
    assert good == [["Q2", "A, 2"]]
    assert [line for line, _ in bad] == [2]
    assert bad[0][1].endswith("; it runs over 3 lines")


@pytest.mark.parametrize(("name", "mark"), [("comma", ","), ("semicolon", ";"), ("tab", "\t"), ("pipe", "|")])
def test_the_delimiter_is_found_and_said(name, mark):
    text = f'q{mark}a{mark}n\n"one; two, three|four"{mark}A, B; C{mark}1\n'.replace("A, B; C", '"A, B; C"')
    good, bad, notes = read(text)
    assert (good, bad) == ([["one; two, three|four", "A, B; C", "1"]], [])
    assert bool(notes) == (mark != ",")
    assert mark == "," or f"fields end at {mark!r}" in notes[0]
    assert read(text, said=f"delimiter={name}")[0] == good
    assert read(f"sep={mark}\r\n{text}")[0] == good


@pytest.mark.parametrize(
    "text", ["delimiter=;;", "delimiter", "quotes=none", "quote=no", "delimiter=", ";", "delimiter=;,x=1"]
)
def test_a_dialect_that_is_none_is_a_sentence(text):
    with pytest.raises(SettingsError, match="--csv"):
        Dialect.parse(text)


def test_dialects():
    assert Dialect.parse("") == Dialect(None, None)
    assert Dialect.parse("delimiter=,") == Dialect(",", None)
    assert Dialect.parse("delimiter=;,quote=none") == Dialect(";", "")
    assert Dialect.parse("quote=single,delimiter=tab") == Dialect("\t", "'")


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3).filter(any), min_size=1, max_size=6))
def test_what_a_writer_wrote_is_read(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["x", "y", "z"], *rows])
    good, bad, _ = read(out.getvalue(), said="delimiter=comma")
    lost = [reason for _, reason in bad if "rows by themselves" not in reason]
    assert not lost
    assert len(good) + len(bad) == len(rows)
    assert [row for row in rows if row in good] == good


def test_how_a_file_was_read_is_kept_with_it(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt;answer\nQ;A\n")
    for _ in range(2):
        rows = open_dataset(path, cache=tmp_path / "cache")
        assert rows[0].response == "A"
        assert list(rows.source.notes) == ["rows.csv: fields end at ';' (--csv delimiter=…)"]
    with pytest.raises(InputError, match=r"no shape|columns are"):
        open_dataset(path, csv="delimiter=comma", cache=tmp_path / "cache")


def test_the_index_that_pandas_writes_is_a_column_that_is_passed_over(tmp_path):
    """DataFrame.to_csv() names the column of its index "", and read_csv calls it "Unnamed: 0"."""
    path = tmp_path / "rows.csv"
    path.write_text(",prompt,response\n0,Q,A\n1,R,B\n")
    rows = open_dataset(path, cache=tmp_path / "cache")
    assert [(row.prompt, row.response) for row in rows] == [("Q", "A"), ("R", "B")]
    assert rows.source.notes == ["columns that are kept and not read: Unnamed: 0"]
    for header in ("prompt,,response", ",Unnamed: 0,prompt,response", ","):
        with pytest.raises(InputError, match="first line with the names"):
            read(f"{header}\n0,1,Q,A\n")


def test_ids_with_a_gap_are_the_whole_numbers_that_they_were(tmp_path):
    for ids, expected in (
        (["7.0", "", "12.0"], ["7", "1", "12"]),
        (["7.0", "7.1", ""], ["7.0", "7.1", "2"]),
        (["", "1.0", "x"], ["0", "1.0", "x"]),
        (["", "", "0.0"], ["0#row", "1", "0"]),
    ):
        path = tmp_path / "rows.csv"
        path.write_text("id,prompt,response\n" + "".join(f"{name},Q,A\n" for name in ids))
        assert list(open_dataset(path, cache=tmp_path / "cache").ids) == expected
