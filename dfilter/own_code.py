"""Code of the user's own: what a Python file computes depends on the files that it imports, too.

What is installed is left out, for it has a version; so are dfilter and the standard library. What a
file imports is read from its import statements, those inside functions included; what it imports by a
name that it makes while it runs, and the data that it reads, are not seen.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dfilter.digests import file_sha256, json_digest

INSTALLED = tuple(
    {
        Path(place).resolve()
        for name, place in sysconfig.get_paths().items()
        if name.endswith(("lib", "stdlib"))
    }
    | {Path(__file__).resolve().parent}
)


def code_sha256(file: Path) -> str:
    """Return the digest of a Python file, together with the files of its own that it imports.

    Args:
        file: the file; one that imports nothing of its own has its SHA-256.

    Raises:
        OSError: it cannot be read.
    """
    found = _imported(file)
    if not found:
        return file_sha256(file)
    return json_digest([file_sha256(file), *sorted(file_sha256(other) for other in found)], 32)


def is_own(module: str) -> bool:
    """Return whether a module is a file of the user's own: neither installed nor dfilter's."""
    return _root(module.partition(".")[0]) is not None


def _imported(file: Path) -> set[Path]:
    found: set[Path] = set()
    open_ = [file.resolve()]
    while open_:
        new = {path.resolve() for path in _named_in(open_.pop())} - found - {file.resolve()}
        found |= new
        open_ += new
    return found


def _named_in(file: Path) -> Iterator[Path]:
    """Yield the files of the user's own that a file's import statements name."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing it says so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name.split("."), _root(alias.name.split(".")[0]))
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            root = file.parents[node.level - 1] if node.level else _root(parts[0])
            for alias in node.names:  # of a package, what is imported may be a module of it
                yield from _files([*parts, alias.name], root)


def _root(top: str) -> Path | None:
    """Return the folder that a module or package of the user's own lies in; none for what is installed."""
    if top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # absent, or made while something ran
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if spec is not None and spec.has_location and spec.origin:
        places.append(str(Path(spec.origin).parent if places else spec.origin))
    place = Path(places[0]).resolve() if places else None
    installed = place is None or any(place.is_relative_to(folder) for folder in INSTALLED)
    return None if installed or place is None else place.parent


def _files(parts: list[str], root: Path | None) -> Iterator[Path]:
    """Yield the files of a module and of the packages that it lies in."""
    if root is None:
        return
    for size in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:size])
        yield from (p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file())
