from __future__ import annotations

import io
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.jsonarray import array_elements
from dfilter.data.jsontext import json_lines, lines, one_line
from dfilter.data.rejects import CutError, Rejection


class Trickle(io.BytesIO):
    """Hands out a few bytes at a time, so that every boundary falls somewhere."""

    def __init__(self, data, step):
        super().__init__(data)
        self.step = step

    def read(self, size=-1, /):
        return super().read(min(self.step, size) if size > 0 else self.step)


def split(items):
    """Return good (place, row) and bad (place, reason), each in order; where the text is cut off is bad."""
    good, bad = [], []
    try:
        for place, _, row in items:
            if isinstance(row, Rejection):
                assert row.line == place
                bad.append((place, row.reason))
            else:
                good.append((place, row))
    except CutError as cut:
        bad.append((cut.place, str(cut)))
    return good, bad


DAMAGED = {
    b'{"a": ': "invalid JSON",
    b"nonsense": "invalid JSON",
    b'{"a": 1} x': "something follows",
    b"[1, 2]": "it is a list, expected a JSON object",
    b'"text"': "it is text",
    b"3": "it is a number",
    b"null": "it is null",
    b'{"a": NaN}': "it holds NaN",
    b'{"a": -Infinity}': "it holds -Infinity",
    b'{"a": 1e999}': "infinite",
    b'{"a": "\xff"}': "invalid UTF-8: byte 0xff at position 8",
    b'{"a": "\xed\xa0\x80"}': "invalid UTF-8",
    b'{"a": "\\ud800"}': "half of a surrogate pair",
    b'{"\\udc00": 1}': "half of a surrogate pair",
    b'{"a": "\x01"}': "invalid JSON",
    b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}": "nested deeper than 100",
    b"[" * 100_000: "nested deeper than 100",
    b'{"a": ' + b"9" * 5000 + b"}": "4,300 digits",
}


@pytest.mark.parametrize(("line", "reason"), DAMAGED.items(), ids=range(len(DAMAGED)))
def test_a_damaged_line_is_rejected_with_its_number_and_reason(line, reason):
    good, bad = split(json_lines(io.BytesIO(b'{"n": 1}\n\n' + line + b'\n{"n": 2}\n')))
    assert good == [(1, {"n": 1}), (4, {"n": 2})]
    assert [place for place, _ in bad] == [3]
    assert reason in bad[0][1]


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": "\\ud83d\\ude00"}',  # a whole pair
        b'{"a": "\\\\ud800"}',  # an escaped backslash, then text
        b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}",
        b'{"s": "{", "a": ' + b"[" * 99 + b"]" * 99 + b"}",
        b'{"a": "' + b"[" * 300 + b'"}',
        '{"a": "x\u2028y\u0085z"}'.encode(),
        b'{"a": 123456789012345678901234567890}',
    ],
)
def test_unusual_but_good_lines_are_kept(line):
    good, bad = split(json_lines(io.BytesIO(line)))
    assert not bad
    assert good == [(1, json.loads(line))]


def test_blank_lines_and_carriage_returns_count_but_do_not_matter():
    good, bad = split(json_lines(io.BytesIO(b'\r\n  \n{"n": 1}\r\n\t\n{"n": 2}')))
    assert (good, bad) == ([(3, {"n": 1}), (5, {"n": 2})], [])


def test_the_last_of_repeated_keys_counts_and_the_text_keeps_both():
    ((place, text, row),) = json_lines(io.BytesIO(b'{"a": 1, "a": 2}'))
    assert (place, text, row) == (1, '{"a": 1, "a": 2}', {"a": 2})


@given(
    parts=st.lists(st.sampled_from([b"", b" ", b"ab", b"abcdefgh", b"abcdefghi", b"x" * 50]), max_size=8),
    step=st.integers(1, 12),
    end=st.sampled_from([b"", b"\n"]),
)
def test_lines_are_those_of_split_however_the_bytes_arrive(parts, step, end):
    data = b"\n".join(parts) + end
    expected = [
        (n, part if len(part) <= 8 else None) for n, part in enumerate(data.split(b"\n"), 1) if part.strip()
    ]
    found = [(n, line if whole else None) for n, line, whole in lines(Trickle(data, step), 8)]
    assert found == expected


def test_an_oversized_line_is_rejected_and_never_held():
    class Endless:
        left = 300

        def read(self, size, /):
            self.left -= 1
            if self.left == 0:
                return b'\n{"n": 2}\n'
            return b"x" * 4096 if self.left > 0 else b""

    good, bad = split(json_lines(Endless(), limit=10_000))
    assert good == [(2, {"n": 2})]
    assert [place for place, _ in bad] == [1]
    ((_, begins, _), _) = lines(Endless(), 10_000)
    assert len(begins) == 4000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text("abc", max_size=3), JSON, max_size=3), max_size=6)


@given(
    rows=ROWS,
    step=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 1, 4]),
    ascii_only=st.booleans(),
)
def test_array_elements_are_the_rows_however_the_bytes_arrive(rows, step, indent, ascii_only):
    data = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
    items = list(array_elements(Trickle(data, step)))
    assert [(place, row) for place, _, row in items] == list(enumerate(rows, 1))
    for _, text, row in items:
        assert "\n" not in text
        assert json.loads(text) == row


@given(row=st.dictionaries(st.text(max_size=3), JSON, max_size=3), indent=st.integers(0, 3))
def test_one_line_keeps_every_value(row, indent):
    text = json.dumps(row, indent=indent, ensure_ascii=False)
    assert json.loads(one_line(text)) == row
    assert one_line(text).count("\n") == 0


def test_one_line_keeps_digits_escapes_and_repeated_keys():
    text = '{\n  "a": 1.50, "a": 12345678901234567890123,\r\n  "b": "\\u00e9, \\n",\n  "c": [\n  ]\n}'
    assert one_line(text) == '{"a": 1.50, "a": 12345678901234567890123, "b": "\\u00e9, \\n", "c": []}'


ARRAY_DAMAGE = [
    ('{"a": NaN}', "NaN"),
    ('{"a": [1, , 2]}', "invalid JSON"),
    ('{"a": "\\ud800"}', "surrogate"),
    ('{"a" 1}', "invalid JSON"),
    ("17", "a number"),
    ("oops", "invalid JSON"),
    ('["x"]', "a list"),
    ('"]"', "text"),
    ('{"a": "line\nbreak"}', "invalid JSON"),
    ('{"a": ' + "[" * 120 + "]" * 120 + "}", "nested deeper"),
]


@given(
    plan=st.lists(st.none() | st.sampled_from(ARRAY_DAMAGE), max_size=8),
    step=st.integers(1, 60),
    indent=st.sampled_from(["", "\n", "\n    "]),
)
def test_damaged_elements_are_passed_over_and_the_others_survive(plan, step, indent):
    texts = [json.dumps({"n": n, "s": '}],{"'}) if bad is None else bad[0] for n, bad in enumerate(plan)]
    data = "[" + ",".join(indent + text for text in texts) + indent + "]"
    good, bad = split(array_elements(Trickle(data.encode(), step)))
    assert good == [(n + 1, {"n": n, "s": '}],{"'}) for n, was in enumerate(plan) if was is None]
    assert [place for place, _ in bad] == [n + 1 for n, was in enumerate(plan) if was is not None]
    for (_, reason), was in zip(bad, [w for w in plan if w is not None], strict=True):
        assert was[1] in reason


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("indent", [1, 4])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"n"', '"n', 1),  # a lost quote
        lambda text: text.replace("]", "", 1),
        lambda text: text.replace("]", "", 1).replace("}", "", 1),
        lambda text: text[: len(text) // 2],
    ],
)
def test_lines_that_begin_alike_end_a_damaged_element(spoil, indent, step):
    rows = [{"n": n, "s": "[{", "t": [{"u": 1}]} for n in range(4)]
    texts = [" " * indent + json.dumps(r, indent=indent).replace("\n", "\n" + " " * indent) for r in rows]
    texts[1] = spoil(texts[1])
    data = "[\n" + ",\n".join(texts) + "\n]"
    good, bad = split(array_elements(Trickle(data.encode(), step)))
    assert [row for _, row in good] == [rows[0], rows[2], rows[3]]
    assert bad[0][0] == 2


def test_invalid_utf8_costs_one_element_of_an_array():
    good, bad = split(array_elements(io.BytesIO(b'[{"n": 1}, {"n": "\xff"}, {"n": 3}]')))
    assert good == [(1, {"n": 1}), (3, {"n": 3})]
    assert bad == [(2, "invalid UTF-8: byte 0xff at character 8")]


def test_a_cut_array_gives_its_whole_rows_and_says_where_it_ends():
    data = json.dumps([{"n": n} for n in range(5)]).encode()
    for cut in range(1, len(data)):
        good, bad = split(array_elements(Trickle(data[:cut], 3)))
        assert good == [(n + 1, {"n": n}) for n in range(len(good))]
        assert len(bad) == 1
        assert bad[0][0] == len(good) + 1


def test_an_oversized_element_is_passed_over():
    data = b'[{"n": 1}, {"n": "' + b'x\\"}' * 5000 + b'"}, {"n": 3}]'
    good, bad = split(array_elements(Trickle(data, 512), limit=2048))
    assert good == [(1, {"n": 1}), (3, {"n": 3})]
    assert [place for place, _ in bad] == [2]


def test_what_follows_the_array_is_reported():
    good, bad = split(array_elements(io.BytesIO(b'[{"n": 1}]\n\n{"n": 2}')))
    assert good == [(1, {"n": 1})]
    assert bad == [(2, "something follows the end of the array")]


def scramble(count, seed):
    """Return lines of JSON of which about half are damaged at random, and which rows are untouched."""
    draw = random.Random(seed)
    kinds = list(DAMAGED)
    kinds.remove(b"[" * 100_000)
    made, whole = [], []
    for number in range(1, count + 1):
        text = json.dumps({"n": number, "s": "ä" * draw.randrange(20), "t": [{"u": None}]}).encode()
        chance = draw.random()
        if chance < 0.5:
            whole.append(number)
        elif chance < 0.6:
            text = draw.choice(kinds)
        else:
            spoilt = bytearray(text)
            for _ in range(draw.randrange(1, 6)):
                at = draw.randrange(len(spoilt))
                spoilt[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3)).replace(b"\n", b"")
            text = bytes(spoilt)
        made.append(text)
    return b"\n".join(made), whole


def survives(count, seed):
    data, whole = scramble(count, seed)
    good, bad = split(json_lines(io.BytesIO(data)))
    places = [place for place, _ in good]
    assert places == sorted(set(places))
    assert not {p for p, _ in good} & {p for p, _ in bad}
    found = dict(good)
    assert all(found[number]["n"] == number for number in whole)
    blank = sum(1 for line in data.split(b"\n") if not line.strip())
    assert len(good) + len(bad) + blank == count


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_no_damage_ends_the_reading(seed):
    survives(100, seed)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_no_damage_of_an_array_ends_the_reading(seed):
    data, _ = scramble(60, seed)
    good, bad = split(array_elements(Trickle(b"[" + data.replace(b"\n", b",\n") + b"]", 700)))
    assert [place for place, _ in good] == sorted({place for place, _ in good})
    assert all(place > 0 for place, _ in bad)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
def test_two_hundred_thousand_damaged_lines(seed):
    survives(200_000, seed)
