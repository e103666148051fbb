"""Settings become components, and everything that is wrong with them is said at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.errors import SettingsError
from dfilter.llm.server import Server
from dfilter.settings import build, merged, parse_assignment, plain


@dataclass(frozen=True)
class Judge:
    model: str = "small"
    samples: int = 1


@dataclass(frozen=True)
class Wanted:
    words: int = 3
    rate: float = 0.5
    unit: Literal["rows", "tokens"] = "rows"
    columns: tuple[str, ...] = ()
    judge: Judge = field(default_factory=Judge)
    other: Judge | None = None
    note: str | None = None
    several: tuple[Judge, ...] = ()

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise SettingsError(f"rate = {self.rate} must be at most 1.")


class Bare:
    """Takes no settings."""


@dataclass
class Unreadable:
    thing: Nowhere = None  # type: ignore[name-defined] # noqa: F821


def findings(kind: type, settings: object) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        build(kind, settings, "lima")  # type: ignore[arg-type]
    return caught.value.findings


def test_values_take_their_fields_types() -> None:
    made = build(
        Wanted, {"words": 7, "rate": 1, "columns": ["a", "b"], "judge": {"samples": 2}, "other": {}}, "lima"
    )
    assert made == Wanted(7, 1.0, "rows", ("a", "b"), Judge(samples=2), Judge())
    assert isinstance(made.rate, float)
    assert isinstance(made.columns, tuple)


def test_several_components_are_built_one_by_one() -> None:
    made = build(Wanted, {"several": [{"model": "a"}, Judge("b"), {"samples": 3}]}, "lima")
    assert made.several == (Judge("a"), Judge("b"), Judge(samples=3))
    found = findings(Wanted, {"several": [{"modell": "a"}, 5, {"samples": "x"}]})
    assert [text.split(" ")[0] for text in found] == [
        "lima.several[0]",
        "lima.several[1]",
        "lima.several[2].samples",
    ]
    assert "Did you mean 'model'?" in found[0]


def test_nothing_given_is_the_default() -> None:
    assert build(Wanted, {}, "lima") == Wanted()
    assert isinstance(build(Bare, {}, "bare"), Bare)


def test_a_component_that_is_made_already_is_taken_as_it_is() -> None:
    assert build(Wanted, {"judge": Judge("m")}, "lima").judge == Judge("m")


def test_all_mistakes_are_reported_at_once_with_the_nearest_name() -> None:
    found = findings(
        Wanted, {"wrods": 1, "rate": "fast", "unit": "bytes", "judge": {"modell": "m"}, "columns": 4}
    )
    assert len(found) == 5
    text = "\n".join(found)
    assert "lima has no setting 'wrods'. Did you mean 'words'? Known: columns, judge, note" in text
    assert "lima.rate = 'fast' does not fit" in text
    assert "lima.unit = 'bytes' does not fit" in text
    assert "'rows' or 'tokens'" in text
    assert "lima.judge has no setting 'modell'. Did you mean 'model'?" in text
    assert "lima.columns = 4 does not fit" in text


def test_a_refused_value_keeps_the_components_own_sentence() -> None:
    assert findings(Wanted, {"rate": 2}) == ("lima: rate = 2.0 must be at most 1.",)


@pytest.mark.parametrize("settings", [5, "words", ["words"], True])
def test_what_is_no_table_is_refused(settings: object) -> None:
    (found,) = findings(Wanted, settings)
    assert "is not a table of settings" in found


def test_settings_for_a_class_without_any_are_refused() -> None:
    assert findings(Bare, {"a": 1}) == ("lima takes no settings, but got a.",)


def test_types_that_exist_for_type_checkers_only_are_named() -> None:
    (found,) = findings(Unreadable, {})
    assert "Nowhere" in found
    assert "at run time" in found


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("lima.words=3", ["lima", "words"], 3),
        ("filter.rate=0.5", ["filter", "rate"], 0.5),
        ("filter.judge.model=gpt-x", ["filter", "judge", "model"], "gpt-x"),
        ("filter.judge.model='3'", ["filter", "judge", "model"], "3"),
        ("a.b=[1, 2]", ["a", "b"], [1, 2]),
        ("a.b=true", ["a", "b"], True),
        ("judge.judge.api_version=2024-10-21", ["judge", "judge", "api_version"], "2024-10-21"),
        ("a.b=", ["a", "b"], ""),
        ("a.b=x=y", ["a", "b"], "x=y"),
        ("select.tau=inf", ["select", "tau"], math.inf),
        (" a . b =1", ["a", "b"], 1),
    ],
)
def test_assignments_are_a_dotted_name_and_a_value(text: str, path: list[str], value: object) -> None:
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize("text", ["2024-10-21", "2024", "1.10", "1e3", "7:30"])
def test_a_text_that_reads_as_a_date_or_number_is_taken_as_it_was_written(text: str) -> None:
    _, value = parse_assignment(f"judge.api_version={text}")
    assert build(Server, {"model": "m", "api_version": value}, "judge").api_version == text


@pytest.mark.parametrize("text", ["a.b", "=3", ".b=3", "a..b=3", ""])
def test_assignments_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not of the form"):
        parse_assignment(text)


def test_one_nested_value_is_replaced_and_the_base_is_left_alone() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, ["a", "b"], 9) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert merged(base, ["d", "e"], 9) == {"a": {"b": 1, "c": 2}, "d": {"e": 9}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


names = st.sampled_from(["small", "large"])
judges = st.builds(Judge, model=names, samples=st.integers(1, 9))
wanted = st.builds(
    Wanted,
    words=st.integers(),
    rate=st.floats(0, 1),
    unit=st.sampled_from(["rows", "tokens"]),
    columns=st.lists(names).map(tuple),
    judge=judges,
    other=st.none() | judges,
    note=st.none() | names,
    several=st.lists(judges, max_size=3).map(tuple),
)


@given(wanted)
def test_plain_settings_build_the_same_component_again(made: Wanted) -> None:
    assert build(Wanted, plain(made), "lima") == made
