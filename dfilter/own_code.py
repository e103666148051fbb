"""Code of the user's own: what a Python file computes depends on the files that it imports, too.

What is installed is left out, for it has a version; so are dfilter and the standard library. What a
file imports is read from its import statements, those inside functions included; what it imports by a
name that it makes while it runs, and the data that it reads, are not seen.

What was found so is what runs: the modules are compiled from these very files, and a ``__pycache__``, which
may be of an earlier content of the same size and second, is not looked at. They are looked for where Python
looks, before the user's code added to that, and then beside the file, in the folder around that and in the
folders beside it, which is what such code adds. Whatever else it imports while it is loaded is warned of.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from dfilter.digests import file_sha256, json_digest
from dfilter.errors import SettingsError

INSTALLED = tuple(
    {
        Path(place).resolve()
        for name, place in sysconfig.get_paths().items()
        if name.endswith(("lib", "stdlib"))
    }
    | {Path(__file__).resolve().parent}
)
_roots: list[str] = []  # further folders to look in: a worker does not import from where it is started
_added: set[str] = set()  # entries of sys.path that code of the user's own made
_places: dict[str, Path] = {}  # by module: what is imported under that name
_loaded: dict[str, str] = {}  # by module: the digest of what was compiled


def code_sha256(file: Path) -> str:
    """Return the digest of a Python file, together with the files of its own that it imports.

    Args:
        file: the file; one that imports nothing of its own has its SHA-256.

    Raises:
        OSError: it cannot be read.
    """
    found = [[name, file_sha256(place)] for name, place in imported(file).items() if place.is_file()]
    return json_digest([file_sha256(file), *sorted(found)], 32) if found else file_sha256(file)


def is_own(module: str) -> bool:
    """Return whether a module is a file of the user's own: neither installed nor dfilter's."""
    return module in _places or _root(module.partition(".")[0], None) is not None


def imported(file: Path) -> dict[str, Path]:
    """Return the modules of its own that a file imports, and those that they import, by dotted name.

    A folder stands for a package without an ``__init__.py``. What the file itself names by dots has no
    name of its own, and is told with them.
    """
    own = file.resolve()
    found: dict[str, Path] = {}
    open_ = [("", own)]
    while open_:
        for name, place in _named_in(*open_.pop(), own.parent):
            if name not in found and place != own:
                found[name] = place
                open_ += [(name, place)] if place.is_file() else []
    return found


def roots(files: Sequence[Path]) -> list[str]:
    """Return the folders from which files of code import modules of the user's own."""
    code = [(file, *entry) for file in files if file.suffix == ".py" for entry in imported(file).items()]
    tops = {place.parent if place.name != "__init__.py" else place.parent.parent
            for _, name, place in code if "." not in name}  # fmt: skip
    return sorted(map(str, tops))


def look_in(*folders: str) -> None:
    """Look for modules of the user's own in these folders, too."""
    _roots.extend(folders)


class Source(SourceFileLoader):
    """Compiles the file that was allowed and hashed; what lies in a __pycache__ beside it is anybody's."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source as it is now."""
        return self.source_to_code(self.get_data(self.get_filename(fullname)), self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and remember what was run."""
        _loaded[module.__name__] = file_sha256(Path(self.path))
        super().exec_module(module)


class _Finder:
    """Finds the modules that files of the user's own import, and no others."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        place = _places.get(name)
        if place is None:
            return None
        if place.is_dir():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        inside = [str(place.parent)] if place.name == "__init__.py" else None
        loader = Source(name, str(place))
        return spec_from_file_location(name, place, loader=loader, submodule_search_locations=inside)


@contextmanager
def loading(file: Path) -> Iterator[None]:
    """Let a file of code, while it is loaded and ever after, import what its digest is of.

    Raises:
        SettingsError: another file that was loaded imports another module under the same name.
    """
    found = imported(file)
    for name, place in found.items():
        if _places.setdefault(name, place) != place:
            raise SettingsError(
                f"{file} imports {place} as '{name}', and {_places[name]} goes by that name already. Give "
                "one of them another name."
            )
    _forget_edited(found)
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    before, modules = set(sys.path), set(sys.modules)
    try:
        yield
    finally:
        _added.update(set(sys.path) - before)
    unseen = list(filter(None, map(_own_file, sorted(set(sys.modules) - modules - set(found)))))
    if unseen:
        more = f" and {len(unseen) - 3:,} more files" if len(unseen) > 3 else ""
        warnings.warn(
            f"{file} imports {', '.join(unseen[:3])}{more} by names that it makes while it runs. When these "
            "are edited, what is stored of it is not made anew; name them in import statements, and keep "
            "them beside it.",
            stacklevel=3,
        )


def _own_file(module: str) -> str:
    """Return the file of a loaded module of the user's own; nothing for any other."""
    place = getattr(sys.modules[module], "__file__", None) or ""
    theirs = module.partition(".")[0] in {*sys.stdlib_module_names, "dfilter"}
    return "" if theirs or not place.endswith(".py") or _installed(Path(place).resolve()) else place


def _forget_edited(found: Mapping[str, Path]) -> None:
    """Have modules imported anew when one of them was edited since: they may have taken names from it."""
    held = {name: place for name, place in found.items() if name in _loaded}
    if any(not place.is_file() or file_sha256(place) != _loaded[name] for name, place in held.items()):
        for name in held:
            sys.modules.pop(name, None)
            del _loaded[name]


def _named_in(name: str, file: Path, beside: Path) -> Iterator[tuple[str, Path]]:
    """Yield the modules of the user's own, and their packages, that a file's import statements name."""
    import ast

    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing it says so
        return
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from _files("", parts, _root(parts[0], beside))
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level:
                root: Path | None = file.parents[node.level - 1]
                prefix = ".".join(package[: len(package) - node.level + 1]) if name else "." * node.level
            else:
                root, prefix = _root(parts[0], beside), ""
            for alias in node.names:  # of a package, what is imported may be a module of it
                yield from _files(prefix, [*parts, alias.name], root)


def _root(top: str, beside: Path | None) -> Path | None:
    """Return the folder that a module or package of the user's own lies in; none for what is installed."""
    if top in sys.stdlib_module_names:
        return None
    spec = _spec(top)
    if spec is None:
        spec = PathFinder.find_spec(top, [*_around(beside), *_roots])
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if spec is not None and spec.has_location and spec.origin:
        places.append(str(Path(spec.origin).parent if places else spec.origin))
    place = Path(places[0]).resolve() if places else None
    return None if place is None or _installed(place) else place.parent


def _installed(place: Path) -> bool:
    return any(place.is_relative_to(folder) for folder in INSTALLED)


def _around(folder: Path | None) -> list[str]:
    """Return the folder of a file, the one around it, and those in it."""
    if folder is None or not os.access(folder, os.R_OK):
        return []
    inside = sorted(place for place in folder.iterdir() if place.is_dir() and place.name.isidentifier())
    return [str(place) for place in (folder, folder.parent, *inside) if place.name != "__pycache__"]


def _spec(top: str) -> ModuleSpec | None:
    """Return where Python finds a module, whatever was loaded and whichever folders were added since."""
    before = [entry for entry in sys.path if entry not in _added]
    for finder in sys.meta_path:
        try:
            where = before if finder is PathFinder else None
            spec = None if finder is _Finder else finder.find_spec(top, where)
        except (ImportError, ValueError, AttributeError):  # of somebody's own
            continue
        if spec is not None:
            return spec
    return None


def _files(prefix: str, parts: list[str], root: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield a module and the packages that it lies in, as Python would choose between files of one name."""
    if root is None:
        return
    for size in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:size])
        named = ".".join(parts[:size])
        name = f"{prefix}{named}" if prefix.endswith(".") or not prefix else f"{prefix}.{named}"
        for file in (place / "__init__.py", place.with_suffix(".py"), place):
            if file.is_dir() if file == place else file.is_file():
                yield name, file.resolve()
                break
