"""A strategy's table: every mistake at once, and a table that makes the same strategy again."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
import tomli_w

from dfilter import strategy as strategies
from dfilter.errors import InputError, SettingsError, UnknownNameError
from dfilter.filters.length import Longest
from dfilter.strategy import from_table, load

MINE = '''
"""A filter of one's own."""
from dataclasses import dataclass
import numpy as np
from dfilter import Scores

@dataclass(frozen=True)
class Mine:
    """Prefers early ids."""
    most: int = 3
    def score(self, pool):
        return Scores(np.arange(len(pool.rows), dtype=np.float64))

class NotAFilter:
    """Has no score."""
'''


def findings(table: dict[str, object] | str, assignments: tuple[str, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(table, assignments) if isinstance(table, str) else from_table(table)
    return caught.value.findings


def test_three_mistakes_are_reported_at_once_with_the_known_names_and_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'keep = "5%"\ncolour = "red"\n'
        '[[steps]]\nfilter = "longset"\n'
        '[[steps]]\nfilter = "random"\nat_leest = 3\n'
        '[[steps]]\nfilter = "longest"\n[steps.settings]\nunit = "wrods"\n'
    )
    found = findings(str(file))
    assert len(found) == 4
    assert found[0].startswith("The strategy has no setting 'colour'.")
    assert found[1].startswith("There is no filter named 'longset'. Did you mean 'longest'? Known: ")
    assert "kcenter" in found[1]
    assert found[2].startswith("step 2 (random) has no setting 'at_leest'. Did you mean 'at_least'?")
    assert found[3].startswith("longest.unit = 'wrods' does not fit")


def test_wrong_assignments_join_the_tables_mistakes() -> None:
    found = findings(
        "longest", ("filter.unti=words", "lenght.unit=words", "filter=3", "select.tua=2", "filter.at_least=x")
    )
    text = "\n".join(found)
    assert len(found) == 5
    assert "longest has no setting 'unti'. Did you mean 'unit'?" in text
    assert "there is no step 'lenght'. Did you mean 'longest'? Known: longest, filter, select." in text
    assert "--set filter=3 names no setting" in text
    assert "select has no setting 'tua'. Did you mean 'tau'?" in text
    assert "at_least = 'x' does not fit" in text


@pytest.mark.parametrize(
    "place", ["os.path:join", "dfilter.filters.length:Longest", "dfilter.filters.length.Longest"]
)
def test_a_table_names_registered_filters_and_no_import_paths(place: str) -> None:
    (found,) = findings({"steps": [{"filter": place}]})
    assert found.startswith(f"There is no filter named '{place}'.")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "needs at least one [[steps]] table"),
        ({"steps": []}, "needs at least one [[steps]] table"),
        ({"steps": ["random"]}, "needs at least one [[steps]] table"),
        ({"steps": [{"keep": "5%"}]}, "step 1 names no filter. Known: "),
        ({"steps": [{"filter": "random", "settings": 5}]}, "random = 5 is not a table of settings"),
        ({"steps": [{"filter": "7"}]}, "no filter named '7'"),
        ({"steps": [{"filter": "random", "keep": "lots"}]}, "Budget 'lots' is not understood"),
        ({"steps": [{"filter": "random", "keep": "9ktok"}]}, "rows or a share of them, not tokens"),
        ({"steps": [{"filter": "random"}, {"filter": "random"}]}, "Two steps are called 'random'"),
        ({"steps": [{"filter": "random"}], "select": 3}, "select = 3 is not a table of settings"),
        ({"steps": [{"filter": "random"}], "select": {"tau": 0.1}}, "tau = 0.1 must be at least 1"),
        ({"steps": [{"filter": "random"}], "run": 3}, "run = 3 is not a table"),
        ({"steps": [{"filter": "random"}], "keep": True}, "Budget 'True' is not understood"),
    ],
)
def test_each_mistake_has_its_sentence(table: dict[str, object], sentence: str) -> None:
    (found,) = findings(table)
    assert sentence in found


def test_an_unknown_strategy_lists_strategies_and_filters() -> None:
    with pytest.raises(UnknownNameError, match=r"named 'randon'. Did you mean 'random'\? Known: "):
        load("randon")


def test_a_file_that_cannot_be_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(str(tmp_path / "absent.toml"))
    (tmp_path / "bad.toml").write_text("steps = [")
    with pytest.raises(SettingsError, match="is not TOML"):
        load(str(tmp_path / "bad.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(InputError, match="cannot be read"):
        load(str(tmp_path / "latin.toml"))


def test_settings_on_the_command_line_reach_step_gate_and_selector() -> None:
    made = load(
        "longest",
        ("filter.unit=tokens", "longest.tokenizer='7'", "filter.keep=30%", "filter.at_least=4",
         "select.quota=task", "select.tau=inf"),
    )  # fmt: skip
    assert made.filters == (Longest("tokens", "7"),)
    assert (made.steps[0].keep, made.steps[0].at_least) == ("30%", 4.0)
    assert (made.select.quota, made.select.tau) == ("task", math.inf)


def test_a_gate_of_so_many_rows_may_be_a_number() -> None:
    assert load("longest", ("filter.keep=30",)).steps[0].keep == "30"
    assert from_table({"keep": 5, "steps": [{"filter": "random", "keep": 30}]}).steps[0].keep == "30"


def test_steps_are_addressed_by_name_where_there_are_several() -> None:
    table = {"steps": [{"filter": "random", "name": "first", "keep": "50%"}, {"filter": "longest"}]}
    made = from_table(table)
    assert [step.name for step in made.steps] == ["first", "longest"]


def test_filter_addresses_the_only_step_alone(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text('[[steps]]\nfilter = "random"\nkeep = "50%"\n[[steps]]\nfilter = "longest"\n')
    assert load(str(file), ("longest.unit=characters",)).filters[1] == Longest("characters")
    (found,) = findings(str(file), ("filter.unit=characters",))
    assert "there is no step 'filter'" in found


@pytest.mark.parametrize("name", strategies.builtin_names())
def test_every_builtin_strategy_is_whole_and_its_table_makes_it_again(name: str) -> None:
    made = load(name)
    assert made.name == name
    assert made.summary
    text = tomli_w.dumps(made.table())
    again = from_table(tomllib.loads(text))
    assert again == made
    assert tomli_w.dumps(again.table()) == text


def test_every_setting_is_spelt_out_in_the_table() -> None:
    table = load("longest", ("select.tau=inf", "select.quota=task")).table()
    assert table["steps"][0]["settings"] == {"unit": "words", "tokenizer": "smollm2", "turns": "all"}
    assert table["select"]["tau"] == math.inf
    assert from_table(tomllib.loads(tomli_w.dumps(table))).select.tau == math.inf


def test_a_file_of_the_same_name_does_not_hide_a_builtin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").write_text("nothing of ours")
    assert load("random").name == "random"


def test_a_class_in_a_local_file_is_a_strategy(tmp_path: Path) -> None:
    file = tmp_path / "my_filter.py"
    file.write_text(MINE)
    made = load(f"{file}:Mine", ("filter.most=5",))
    assert made.name == "mine"
    assert made.steps[0].name == "Mine"
    assert made.filters[0].most == 5  # type: ignore[attr-defined]
    (found,) = findings(f"{file}:Mine", ("Mine.mots=5",))
    assert "has no setting 'mots'. Did you mean 'most'?" in found
    (found,) = findings(f"{file}:Mime")
    assert "Did you mean 'Mine'?" in found
    (found,) = findings(f"{file}:NotAFilter")
    assert "has no method score" in found
    (found,) = findings(f"{tmp_path}/absent.py:Mine")
    assert "There is no file" in found


def test_a_strategy_is_deterministic_when_all_its_parts_are() -> None:
    assert load("longest").deterministic
    assert not load("random").deterministic
    assert not load("longest", ("select.sample=true",)).deterministic
    two = {"steps": [{"filter": "random", "keep": "50%"}, {"filter": "longest"}]}
    assert not from_table(two).deterministic
