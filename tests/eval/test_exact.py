"""Exact match: the comparison by a table, the evaluation with a model that is told what to say."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dfilter.errors import InputError
from dfilter.eval import exact
from dfilter.eval.generation import Answer, Decoding
from dfilter.models import resolve

RIGHT = [
    ("46", "46"),
    ("That gives 46.", "46"),
    ("So the answer is **46**.", "46"),
    ('The word is "Lamp".', "lamp"),
    ("total:\n1,234", "1234"),
    ("The oldest is\u00a0Hana", "Hana"),
    ("Temperature: -4", "-4"),
    ("half, that is 0.5", "0.5"),
    ("Monday", "Mon\nMonday"),
]
WRONG = [
    ("146", "46"),
    ("46 apples", "46"),
    ("0.46", "46"),
    ("-46", "46"),
    ("It is not 46, but 47", "46"),
    ("", "46"),
    ("unlamp", "lamp"),
]


@pytest.mark.parametrize(("said", "answer"), RIGHT)
def test_right_at_the_end(said, answer):
    assert exact.is_right(said, answer)


@pytest.mark.parametrize(("said", "answer"), WRONG)
def test_wrong_at_the_end(said, answer):
    assert not exact.is_right(said, answer)


def test_the_other_ways_to_match():
    assert exact.is_right("46 apples", "46", "contains")
    assert not exact.is_right("146 apples, 46.5 pears", "46", "contains")
    assert not exact.is_right("It is 46.", "46", "equals")
    assert exact.is_right(" 46. ", "46", "equals")
    assert exact.is_right("first 12, then 46 apples", "46.0", "number")
    assert not exact.is_right("first 46, then 12", "46", "number")
    assert not exact.is_right("none", "46", "number")


WAYS = ("ends", "equals", "contains", "number")

# One number in two typographies: right in every way to match, from either side.
EQUAL = [
    *[(f"{dash}4", "-4") for dash in "-\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d\u207b\u2796"],
    *[(f"{dash} 4", "-4") for dash in "-\u2013\u2212\uff0d"],
    ("-  4", "-4"),
    ("minus  4", "-4"),
    ("+4", "4"),
    ("\uff0b4", "4"),
    ("minus 4", "-4"),
    ("-$4", "-4"),
    ("$-4", "-4"),
    ("-4 €", "-4"),
    ("US$ 4", "US$4"),
    (".5", "0.5"),
    ("-.5", "-0.50"),
    ("5.", "5.0"),
    ("3,14", "3.14"),
    ("0,125", "0.125"),
    ("1234,567", "1234.567"),
    ("1,234", "1234"),
    ("1 234 567", "1234567"),
    ("1\u00a0234\u202f567", "1234567"),
    ("1\u202f234,5", "1234.5"),
    ("1'234'567", "1234567"),
    ("1\u2019234.50", "1234.5"),
    ("12,34,567", "1234567"),
    ("1.234.567", "1234567"),
    ("1.234,56", "1234.56"),
    ("1_000", "1000"),
    ("1{,}234", "1234"),
    *[("".join(chr(zero + int(c)) for c in "42"), "42") for zero in (0x660, 0x6F0, 0x966, 0xE50, 0xFF10)],
    ("\u0661\u066c\u0662\u0663\u0664\u066b\u0665", "1234.5"),
    ("50 %", "50%"),
    ("50 percent", "50%"),
    ("\u0665\u0660\u066a", "50%"),
    ("50%", "50"),
    ("50%", "0.5"),
    ("12.5%", "1/8"),
    ("3/4", "0.75"),
    ("½", "0.5"),
    ("2½", "2.5"),
    ("2 1/2", "2.5"),
    ("-½", "-0.5"),
    (r"\frac{3}{4}", "3/4"),
    ("1.5e3", "1500"),
    ("1e-2", "0.01"),
    ("2 × 10^3", "2000"),  # noqa: RUF001 - as people write it
    ("2·10³", "2000"),
    ("10^3", "1000"),
    ("2.5 million", "2,500,000"),
    ("\u200e-\u200e4", "-4"),
    ("\u200f\u2212\u0664\u0662", "-42"),
    ("1\u2009234", "1234"),
    ("9007199254740993", "9,007,199,254,740,993"),
    (r"\boxed{72}", "72"),
    ("**46**", "46"),
]
# What is said, and a number that is not what it says in any way to match.
UNEQUAL = [
    ("-4", "4"),
    ("4", "-4"),
    ("\u2212 4", "4"),
    ("The answer is \u2013 4", "4"),
    ("minus 4", "4"),
    ("US$-4", "4"),
    ("±4", "4"),
    ("14", "4"),
    ("42", "4"),
    ("٤٢", "٢"),
    ("3.14", "3"),
    ("3.14", "14"),
    ("1,5", "5"),
    ("0.04", "4"),
    ("1,234", "234"),
    ("1 234", "234"),
    ("1'234", "1"),
    ("1.234", "1234"),
    ("10-20", "20"),
    ("10-20", "-20"),
    ("10\u201320", "10"),
    ("$10-$20", "10"),
    ("2024-01-05", "5"),
    ("1/2/2024", "2024"),
    ("12:30", "30"),
    ("v1.2.3", "3"),
    ("1.2.3", "3"),
    ("A4", "4"),
    ("covid-19", "19"),
    ("3x4", "4"),
    ("4th", "4"),
    ("5k", "5"),
    ("5 million", "5"),
    ("5万", "5"),
    ("192.168.0.1", "1"),
    ("5^2", "2"),
    ("10²", "102"),
    ("2½", "0.5"),
    ("3/4", "4"),
    ("1e5", "5"),
    ("50%", "5"),
    ("0.5%", "50%"),
    ("0.5", "50"),
    ("0.1", "0.10000000000000001"),
    ("9007199254740993", "9007199254740992"),
    ("9" * 5000, "9"),
    ("56ish", "56"),
    ("56-ish", "56"),
    ("a 10fold rise", "10"),
    ("in her 20's", "20"),
    ("an 18-year-old", "18"),
    ("a 3.5-inch disk", "3.5"),
    ("70%-ish", "70"),
    ("img.72", "72"),
]
SOLUTION = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"
)
# As models write; the last number alone counts, and the end where it is one.
SAID = [
    ("She sold 48/2 = 24 in May, so 48 + 24 = 72 clips.", SOLUTION, {"number", "contains"}),
    ("48 + 24 = 72", SOLUTION, {"ends", "number", "contains"}),
    ("24 in May.\n#### 72", SOLUTION, {"ends", "number", "contains"}),
    ("#### 72", SOLUTION, {"ends", "equals", "number", "contains"}),
    ("The answer is $72.00.", SOLUTION, {"ends", "number", "contains"}),
    ("24", SOLUTION, set()),
    ("First 72, then 24", SOLUTION, {"contains"}),
    ("So the profit \u2014 46.", "46", {"ends", "number", "contains"}),
    ("The profit - 46.", "46", {"ends", "number", "contains"}),
    ("The change is - 46.", "-46", {"ends", "number", "contains"}),
    ("Sizes:\n- 4\n- 5", "5", {"ends", "number", "contains"}),
    ("It costs Rs.500", "500", {"ends", "number", "contains"}),
    ("It costs USD500.", "500", {"ends", "number", "contains"}),
    ("see no.72", "72", {"ends", "number", "contains"}),
    ("Each pays 7, the 18-year-old too", "7", {"number", "contains"}),
    ("an 18-year-old", "18-year-old", {"ends", "contains"}),
    ("18 years old", "18", {"number", "contains"}),
    ("10 - 6", "6", {"contains"}),
    ("10 -  6", "6", {"contains"}),
    ("3 * 4", "4", {"contains"}),
    ("10 - 14 = -4", "-4", {"ends", "number", "contains"}),
    ("It weighs 46kg", "46", {"number", "contains"}),
    ("46 apples", "46.0 apples", {"ends", "equals", "number", "contains"}),
    ("12\n345", "345", {"ends", "number", "contains"}),
    ("In 2020 300 people", "300", {"number", "contains"}),
    ("1,2,3", "1, 2, 3", {"ends", "equals", "number", "contains"}),
    ("10\u201320", "10-20", {"ends", "equals", "contains"}),
    ("10-20-30", "10-20", set()),
    ("答えは46です", "46", {"number", "contains"}),
    ("1e+22", "10000000000000000000000", {"ends", "equals", "number", "contains"}),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_one_number_in_two_typographies(one, other):
    for match in WAYS:
        assert exact.is_right(one, other, match), match
        assert exact.is_right(other, one, match), match
    assert exact.is_right(f"The answer is {one}.", other, "ends")


@pytest.mark.parametrize(("said", "answer"), UNEQUAL)
def test_other_numbers_and_digits_inside_something_larger(said, answer):
    for match in WAYS:
        assert not exact.is_right(said, answer, match), match


@pytest.mark.parametrize(("said", "answer", "ways"), SAID)
def test_as_models_write(said, answer, ways):
    assert {match for match in WAYS if exact.is_right(said, answer, match)} >= ways
    assert {match for match in WAYS if exact.is_right(said, answer, match)} <= ways


def test_lines_are_alternatives_unless_one_is_marked_as_the_final_answer():
    assert exact.known("Mon\n\nMonday") == ["Mon", "Monday"]
    assert exact.known(SOLUTION) == ["72"]
    assert exact.known("#### 3\nno, wait\n#### 1,080 ") == ["1,080 "]
    assert exact.known("use ####\nor ###") == ["use ####", "or ###"]


def written(value: Decimal, draw) -> str:
    """Write a number in one of the unambiguous typographies."""
    whole, _, part = f"{abs(value):f}".partition(".")
    by = draw(st.sampled_from(["", ",", " ", "\u00a0", "\u202f", "'", "\u2019", ".", "_"]))
    groups = f"{int(whole):,}".replace(",", by) if by else whole
    marks = {",": ".", ".": ","}.get(by) or draw(st.sampled_from(".,"))
    if marks == "," and len(part) == 3 and len(whole) <= 3:
        marks = "."  # 1,234 would be a thousand
    if by == "." and len(whole) <= 6 and not part:
        groups = whole  # 1.234 would be a little over one
    text = groups + (marks + part if part else draw(st.sampled_from(["", ".0"])) if by != "." else "")
    start = draw(st.sampled_from([0x30, 0x660, 0x6F0, 0x966, 0xFF10, 0x1D7CE]))
    text = "".join(chr(start + int(c)) if c.isdigit() else c for c in text)
    money = draw(st.sampled_from(["", "$", "€ ", "£"]))
    minus = draw(st.sampled_from("-\u2010\u2012\u2013\u2014\u2212\uff0d")) if value < 0 else ""
    return (
        minus
        + (draw(st.sampled_from(["", " "])) if minus else draw(st.sampled_from(["", "+"])))
        + money
        + text
    )


numbers = st.decimals(-(10**9), 10**9, places=None, allow_nan=False).filter(
    lambda d: -12 < d.as_tuple().exponent <= 0
)
short = st.builds(
    lambda n, places: Decimal(n).scaleb(-places), st.integers(-(10**8), 10**8), st.integers(0, 4)
)


@given(st.data(), st.one_of(short, numbers), st.sampled_from(["{}", "The answer is {}.", "= {}", "**{}**"]))
def test_a_number_equals_itself_in_every_typography(data, value, sentence):
    said, answer = (written(value, data.draw) for _ in range(2))
    assert exact.is_right(sentence.format(said), answer, "ends"), (said, answer)
    assert exact.is_right(said, answer, "equals"), (said, answer)
    assert exact.is_right(f"first 7, {said} apples", answer, "number"), (said, answer)
    assert exact.is_right(f"7: {said} apples", answer, "contains"), (said, answer)


@given(st.data(), short, short)
def test_different_numbers_are_never_equal(data, one, other):
    assume(one != other)
    said, answer = written(one, data.draw), written(other, data.draw)
    for match in WAYS:
        assert not exact.is_right(f"It is {said}", answer, match), (said, answer)
        assert not exact.is_right(said, answer, match), (said, answer)


@given(st.text(max_size=30))
def test_an_answer_is_right_when_it_is_said(text):
    if exact.normalised(text) and len(text.splitlines()) == 1:
        assert exact.is_right(text, text, "equals")


def test_one_value_per_prompt(tmp_path, monkeypatch):
    path = tmp_path / "q.jsonl"
    lines = [{"id": i, "prompt": f"question {i}", "answer": str(i)} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    said = ["It is 0", "2", "", "3."]
    answers = [Answer(text, cut=not text.endswith(".")) for text in said]
    monkeypatch.setattr(exact, "answer", lambda model, prompts, decoding, seed: answers)
    found = exact.Exact(str(path)).evaluate(tmp_path)
    assert found.values.tolist() == [1, 0, 0, 1]
    assert found.prompts == ("q/0", "q/1", "q/2", "q/3")
    assert found.facts["silent"] == 1
    assert (found.facts["cut"], found.facts["answers"]) == (3, 4)
    assert found.facts["bounds"] == [0, 1]


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (
            ["roses are red\nviolets are blue", "no"],
            ["Roses are red\nviolets are blue.", "no"],
            ["violets are blue"],
        ),
        (["7", 8], ["7", "8.0"], ["None", "78"]),
        ([SOLUTION], ["72"], ["24", "Natalia sold 48/2 = <<48/2=24>>24 clips in May."]),
        (True, ["true"], ["1"]),
    ],
)
def test_an_item_of_a_list_is_one_answer(tmp_path, monkeypatch, answer, right, wrong):
    said = [*right, *wrong]
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"prompt": text, "answer": answer} for text in said]))
    answers = [Answer(text, cut=False) for text in said]
    monkeypatch.setattr(exact, "answer", lambda model, prompts, decoding, seed: answers)
    found = exact.Exact(str(path)).evaluate(tmp_path)
    assert found.values.tolist() == [1] * len(right) + [0] * len(wrong)


@pytest.mark.parametrize("answer", [["7", None], {"value": 7}, ["7", ["8"]], [{"a": 1}], math.inf])
@pytest.mark.parametrize("match", ["ends", "number"])
def test_an_answer_that_is_none_is_refused_before_anything_is_trained(tmp_path, answer, match):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"prompt": "a", "answer": "7"}, {"prompt": "b", "answer": answer}]))
    with pytest.raises(InputError, match=r"Prompt 'q/1' of .* has .* in column 'answer'; expected a text"):
        exact.Exact(str(path), match=match).check()


def test_a_prompt_without_answer_is_refused_before_anything_is_generated(tmp_path, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "answer": " "}')
    monkeypatch.setattr(exact, "answer", lambda *a, **k: pytest.fail("generated"))
    with pytest.raises(InputError, match="no answer in column 'answer'"):
        exact.Exact(str(tmp_path / "q.jsonl")).evaluate(tmp_path)


def test_an_answer_without_a_number_is_refused_where_numbers_are_compared(tmp_path, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "answer": "lamp 4"}\n{"prompt": "b", "answer": "A4"}')
    monkeypatch.setattr(exact, "answer", lambda *a, **k: pytest.fail("generated"))
    with pytest.raises(InputError, match=r"'q/1' .* has no number in column 'answer'"):
        exact.Exact(str(tmp_path / "q.jsonl"), match="number").evaluate(tmp_path)


def test_end_to_end_with_a_tiny_model(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"say {i}", "answer": str(i)}) for i in range(6)))
    found = exact.Exact(str(path), decoding=Decoding(max_new_tokens=4)).evaluate(resolve("tiny").path)
    assert found.values.shape == (6,)
