"""Names lead to components; a plugin that is broken harms nothing but itself."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import pytest

from dfilter import registry
from dfilter.errors import SettingsError, UnknownNameError
from dfilter.filters.length import Longest

PLUGIN = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Good:
    """Prefers what is good."""
    level: int = 1
    def score(self, pool): ...

NUMBER = 3
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with good, broken and ill-named entry points, on the path as if it were installed."""
    (tmp_path / "registry_plugin.py").write_text(PLUGIN)
    (tmp_path / "registry_plugin_broken.py").write_text("import a_module_that_nobody_has\n")
    (tmp_path / "registry_plugin_quits.py").write_text("raise SystemExit('I quit')\n")
    info = tmp_path / "registry_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registry-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dfilter.filters]\n"
        "good = registry_plugin:Good\n"
        "broken = registry_plugin_broken:Anything\n"
        "quits = registry_plugin_quits:Anything\n"
        "number = registry_plugin:NUMBER\n"
        "absent = registry_plugin:Absent\n"
        "longest = registry_plugin:Good\n"
        "bad name = registry_plugin:Good\n"
        "[dfilter.trainers]\n"
        "good-trainer = registry_plugin:Good\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("registry_plugin")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", registry.BUILT_IN)
def test_every_builtin_name_leads_to_a_class(kind: str) -> None:
    for name in registry.BUILT_IN[kind]:
        assert isinstance(registry.load(kind, name), type)


def test_a_name_and_settings_make_a_component() -> None:
    assert registry.create("filters", "longest", {"unit": "characters"}) == Longest("characters")


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"named 'kcentre'. Did you mean 'kcenter'\? Known: "):
        registry.load("filters", "kcentre")


@pytest.mark.filterwarnings("ignore:Plugin")
def test_a_plugin_is_found_by_name_beside_the_builtins(installed: Path) -> None:
    assert {"good", "longest", "random"} <= set(registry.names("filters"))
    made = registry.create("filters", "good", {"level": 4})
    assert (type(made).__name__, made.level) == ("Good", 4)
    assert "good-trainer" in registry.names("trainers")


@pytest.mark.filterwarnings("ignore:Plugin")
def test_a_plugin_cannot_take_a_builtin_name(installed: Path) -> None:
    assert registry.load("filters", "longest") is Longest


def test_left_out_plugins_are_named_with_the_reason(installed: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        registry.names("filters")
    said = sorted(str(w.message) for w in caught)
    assert len(said) == 2
    assert "its name 'bad name' is not made of letters" in said[0]
    assert "its name 'longest' is taken" in said[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "a_module_that_nobody_has"),
        ("quits", "I quit"),
        ("absent", "no attribute"),
        ("number", "not a class"),
    ],
)
@pytest.mark.filterwarnings("ignore:Plugin")
def test_a_broken_plugin_that_is_asked_for_is_an_error_in_a_sentence(
    installed: Path, name: str, reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        registry.load("filters", name)


def test_broken_plugins_are_warned_of_and_all_others_are_there(installed: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        there = registry.loadable("filters")
    assert {"good", *registry.BUILT_IN["filters"]} == set(there)
    said = "\n".join(str(w.message) for w in caught)
    assert all(f"Plugin '{name}'" in said for name in ("broken", "quits", "absent"))


def test_a_local_file_that_fails_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("1 / 0\n")
    registry.allow_code(file)
    with pytest.raises(SettingsError, match=r"mine.py cannot be imported: ZeroDivisionError: "):
        registry.load("filters", f"{file}:Mine")
    file.write_text("class Mine:\n    pass\nfrom fractions import Fraction\n")
    assert registry.load("filters", f"{file}:Mine").__name__ == "Mine"
    with pytest.raises(UnknownNameError):  # an imported name is not the file's own
        registry.load("filters", f"{file}:Fraction")
