from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.sametext import Said, Turns, agreement
from dfilter.types import Example, Message

LONG = " ".join(f"word{at}" for at in range(300))
THAI = "รดน้ำตอนเช้าและคลุมดินด้วยฟางเพื่อให้ต้นมะม่วงไม่แห้งตายในหน้าแล้งที่ยาวนาน"


def row(asked: str, answer: str, system: str = "", earlier: tuple[str, str] | None = None) -> Example:
    turns = [("system", system)] if system else []
    turns += [("user", earlier[0]), ("assistant", earlier[1])] if earlier else []
    turns += [("user", asked), ("assistant", answer)]
    return Example("0", tuple(Message(*turn) for turn in turns), {})


def same(one: Example, other: Example) -> bool:
    agree = agreement([one, other])
    there, back = (bool(agree(np.array([a]), np.array([b]))[0]) for a, b in ((0, 1), (1, 0)))
    assert there == back
    return there


CASES = [
    ("punctuation and case", row(LONG, "Yes, it is."), row(LONG.upper() + "!", "yes it is"), True),
    ("one word of many", row(LONG, LONG), row(LONG, LONG.replace("word150 ", "phrase ")), True),
    (
        "one of a few words",
        row(LONG, "It lies in Paris, France."),
        row(LONG, "It lies in Lyon, France."),
        False,
    ),
    ("one word replies", row(LONG, "Paris"), row(LONG, "Madrid"), False),
    (
        "a short question",
        row(f"{LONG} What is red?", LONG),
        row(f"{LONG} Who came late?", LONG),
        False,
    ),
    (
        "one passage of many",
        row(LONG, LONG),
        row(LONG, LONG.replace("word150 word151 word152", "a b c")),
        False,
    ),
    ("half of it", row(LONG, LONG), row(LONG, LONG[: len(LONG) // 2]), False),
    ("one word at the end", row(f"{LONG} Is 7 prime?", "yes"), row(f"{LONG} Is 8 prime?", "yes"), False),
    (
        "what was said earlier",
        row("And?", LONG, earlier=("a", "b")),
        row("And?", LONG, earlier=("a", "c")),
        False,
    ),
    ("the system turn", row("a", LONG, "In French."), row("a", LONG, "In German."), False),
    ("no words at all", row(LONG, "!"), row(LONG, "?"), True),
    ("Thai, one letter", row(THAI * 4, THAI * 4), row(THAI * 4, f"{THAI * 2}ๆ{THAI * 2}"), True),
    ("Thai, another end", row(THAI * 4, "ห้า"), row(THAI * 4, "หก"), False),
]


@pytest.mark.parametrize(("_case", "one", "other", "same_"), CASES)
def test_rows_say_the_same_if_every_stretch_is_in_both(
    _case: str, one: Example, other: Example, same_: bool
) -> None:
    assert same(one, other) is same_
    assert same(one, one)


WORDS = st.lists(st.sampled_from([f"w{at}" for at in range(30)]), max_size=80)


@given(WORDS, st.integers(0, 79), st.sampled_from(["w1", "new", ""]))
@settings(max_examples=60)
def test_the_quick_look_misses_nothing_that_the_slow_one_finds(said: list[str], at: int, word: str) -> None:
    one = row(" ".join(said), " ".join(said[::-1]))
    other = row(" ".join([*said[:at], word, *said[at + 1 :]]), " ".join(said[::-1]))
    assert same(one, other) is Turns.of(one).agree(Turns.of(other))


def test_a_stretch_is_counted_by_hand() -> None:
    # A changed word changes three runs: 21 of 24 are 0.875. Two beside each other change four: 0.833.
    words = [f"w{at}" for at in range(40)]
    one = Said.of(" ".join(words))
    assert one.within(Said.of(" ".join([*words[:19], "other", *words[20:]])))
    assert not one.within(Said.of(" ".join([*words[:19], "other", "words", *words[21:]])))
    # Of the ten runs at an end a changed word leaves seven.
    assert not one.within(Said.of(" ".join([*words[:36], "other", *words[37:]])))
    assert not one.within(Said.of(" ".join([*words[:3], "other", *words[4:]])))


def test_only_the_parts_that_are_asked_for_must_agree() -> None:
    rows = [row(LONG, "yes"), row(LONG, "no")]
    first, second = np.array([0]), np.array([1])
    assert agreement(rows, ("asked", "earlier", "system"))(first, second).all()
    assert not agreement(rows)(first, second).any()
    assert len(agreement(rows)(first[:0], second[:0])) == 0
    assert Turns.of(rows[0]).agree(Turns.of(rows[0]))
