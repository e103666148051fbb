"""The house: rooms, links and imports are what the packaging table says they are."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("filters", "embed", "cluster", "train", "eval")
MAY_IMPORT = {
    "cluster": set(),
    "embed": {"core"},
    "train": {"core"},
    "eval": {"core"},
    "filters": {"core", "embed", "cluster"},
    "core": {"core"},
}
BOTTOM = ("dfilter.types", "dfilter.errors")
CLI_PARTS = re.compile(r"dfilter(\.\w+)?\.cli")  # a room of the core may bring commands of its own
TOP = {"dfilter.cli", "dfilter.__main__"}
HEAVY = ("torch", "transformers", "sentence_transformers", "openai", "sklearn", "peft", "accelerate", "numba")


def sources() -> Iterator[tuple[str, Path]]:
    """Yield (room, file) of every module of the package; the core's links are not followed."""
    for room in ROOMS:
        yield from ((room, file) for file in sorted((ROOT / room).rglob("*.py")))
    linked = tuple(ROOT / "dfilter" / room for room in ROOMS)
    for file in sorted((ROOT / "dfilter").rglob("*.py")):
        if not file.is_relative_to(linked[0]) and not any(file.is_relative_to(link) for link in linked):
            yield "core", file


def module_name(room: str, file: Path) -> str:
    inside = file.relative_to(ROOT / "dfilter" if room == "core" else ROOT).with_suffix("").parts
    return ".".join(("dfilter", *inside)).removesuffix(".__init__")


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every imported module and its line, wherever in the file it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(module: str) -> str | None:
    first, *rest = module.split(".")
    if first != "dfilter":
        return None
    return rest[0] if rest and rest[0] in ROOMS else "core"


def for_type_checkers(tree: ast.Module) -> set[int]:
    """Return the lines under ``if TYPE_CHECKING``."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {line for b in blocks for stmt in b.body for line in range(stmt.lineno, stmt.end_lineno + 1)}


def test_links_table_and_packages_are_one() -> None:
    table = TABLE["tool"]["setuptools"]["package-dir"]
    assert table == {"dfilter": "dfilter"} | {f"dfilter.{room}": room for room in ROOMS}
    for room in ROOMS:
        link = ROOT / "dfilter" / room
        if link.is_symlink():  # a checkout without symlinks still builds and runs
            assert link.readlink() == Path("..") / room
    on_disk = {module_name(room, f) for room, f in sources() if f.name == "__init__.py"}
    assert set(TABLE["tool"]["setuptools"]["packages"]) == on_disk


def test_links_are_committed_as_links() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-s", *(f"dfilter/{room}" for room in ROOMS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    if not listed:
        pytest.skip("this is no git checkout")
    assert [line.split()[0] for line in listed] == ["120000"] * len(ROOMS)


def test_rooms_import_only_what_they_may() -> None:
    wrong = []
    for room, file in sources():
        for module, line in imports(parsed(file)):
            theirs = room_of(module)
            if theirs is not None and theirs != room and theirs not in MAY_IMPORT[room]:
                wrong.append(f"{file.relative_to(ROOT)}:{line} ({room}) imports {module}")
    assert not wrong


def test_core_has_contracts_at_the_bottom_and_the_command_line_at_the_top() -> None:
    wrong = []
    for room, file in sources():
        name = module_name(room, file)
        tree = parsed(file)
        typing_only = for_type_checkers(tree)
        for module, line in imports(tree):
            if room_of(module) is None or line in typing_only:
                continue
            place = f"{file.relative_to(ROOT)}:{line} imports {module}"
            if name in BOTTOM and not module.startswith(BOTTOM):
                wrong.append(f"{place}; nothing lies below it")
            if CLI_PARTS.match(module) and not CLI_PARTS.match(name) and name not in TOP:
                wrong.append(f"{place}; the command line lies on top")
            if module.startswith(("dfilter.run", "dfilter.summary")) and name.startswith(
                ("dfilter.data", "dfilter.store", "dfilter.pool", "dfilter.selector", "dfilter.selection")
            ):
                wrong.append(f"{place}; a run folder is nothing it should know of")
    assert not wrong


def test_rooms_are_never_imported_by_their_bare_name() -> None:
    files = [f for _, f in sources()] + [
        f for folder in ("tests", "benchmarks") for f in (ROOT / folder).rglob("*.py")
    ]
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in files
        for module, line in imports(parsed(file))
        if module.split(".")[0] in ROOMS
    ]
    assert not wrong


def test_nothing_of_ours_unpickles_or_runs_foreign_code() -> None:
    wrong = []
    for _, file in sources():
        tree = parsed(file)
        found = [name for name, _ in imports(tree) if name.split(".")[0] in {"pickle", "dill", "joblib"}]
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "trust_remote_code"}:
                found += [ast.unparse(node)] * (ast.unparse(node.value) != "False")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "eval", "exec"}:
                told = {word.arg: ast.unparse(word.value) for word in node.keywords}
                # torch's restricted loader builds tensors and plain containers alone
                found += [ast.unparse(node)] * (told.get("weights_only") != "True")
        wrong += [f"{file.relative_to(ROOT)}: {what}" for what in found]
    assert not wrong


def test_every_import_is_a_declared_dependency() -> None:
    """What is only brought along by another package may be gone tomorrow."""
    project = TABLE["project"]
    required = [*project["dependencies"], *(r for e in project["optional-dependencies"].values() for r in e)]
    declared = {re.split(r"[\[<>=!~ ;]", name)[0].lower().replace("_", "-") for name in required}
    owners = {
        module: {owner.lower().replace("_", "-") for owner in found}
        for module, found in metadata.packages_distributions().items()
    }
    wrong = set()
    for _, file in sources():
        for module, line in imports(parsed(file)):
            first = module.split(".")[0]
            if first in sys.stdlib_module_names or first in {"dfilter", "__future__"}:
                continue
            if not (owners.get(first, {first.replace("_", "-")}) & declared):
                wrong.add(f"{file.relative_to(ROOT)}:{line} imports {first}")
    assert not wrong


def test_constraints_pin_every_dependency_and_hold_here() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if line[:1] not in {"#", ""})
    for requirement in TABLE["project"]["dependencies"]:
        assert re.split(r"[\[<>=]", requirement)[0] in pinned
    assert pinned["torch"] == "2.13.0"


def loaded_modules(code: str) -> set[str]:
    """Return sys.modules after running ``code`` in a fresh interpreter, outside of the checkout."""
    told = (
        "import sys, json, atexit\natexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", told + code], capture_output=True, text=True, check=False, cwd=Path("/")
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "command", [["--help"], ["strategies"], ["filters"], ["--version"], ["run", "--help"]]
)
def test_listing_commands_import_nothing_heavy(command: list[str]) -> None:
    there = loaded_modules(f"from dfilter.cli import main\nmain({command!r})")
    assert "dfilter.cli" in there
    assert not there & set(HEAVY)


def test_importing_dfilter_imports_nothing_else() -> None:
    there = loaded_modules("import dfilter")
    assert {name for name in there if name.startswith("dfilter")} == {"dfilter"}
    assert not there & {*HEAVY, "numpy", "pyarrow", "click"}


def test_rooms_do_not_appear_under_their_bare_names(tmp_path: Path) -> None:
    """The root folders are importable from the checkout's own folder; nothing may take them from there."""
    code = (
        f"import os; os.chdir({str(ROOT)!r}); sys.path.insert(0, {str(ROOT)!r})\n"
        "from dfilter.cli import main\n"
        f"main(['sample', '-o', {str(tmp_path / 's')!r}, '--rows', '60'], standalone_mode=False)\n"
        f"main(['run', {str(tmp_path / 's' / 'pool.jsonl')!r}, '--strategy', 'longest', '--keep', '5', "
        f"'-o', {str(tmp_path / 'r')!r}, '-q'], standalone_mode=False)"
    )
    there = loaded_modules(code)
    assert "dfilter.filters.length" in there
    assert not there & set(ROOMS)


@pytest.mark.slow
def test_wheel_from_a_checkout_without_links_is_whole(tmp_path: Path) -> None:
    """Links serve editors; what is built comes from the table alone, data files included."""
    copy = tmp_path / "checkout"
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "runs", "build")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skipped)
    for room in ROOMS:
        (copy / "dfilter" / room).unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        inside = {name for name in opened.namelist() if name.startswith("dfilter/")}
    expected = {
        "/".join((*module_name(room, file).split("."), "__init__.py"))
        if file.name == "__init__.py"
        else "/".join(module_name(room, file).split(".")) + ".py"
        for room, file in sources()
    }
    data = {
        file.relative_to(ROOT / "dfilter" if room == "core" else ROOT).as_posix()
        for room, folder in [*((r, ROOT / r) for r in ROOMS), ("core", ROOT / "dfilter")]
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts and not linked(file)
    }
    assert inside == expected | {f"dfilter/{name}" for name in data}


def linked(file: Path) -> bool:
    return any(file.is_relative_to(ROOT / "dfilter" / room) for room in ROOMS)
