"""What the store's tests share: a signal and a fit that say what they compute, and processes that ask."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).with_name("counting.py")


@pytest.fixture(scope="session")
def counting() -> ModuleType:
    spec = importlib.util.spec_from_file_location("counting", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["counting"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that asks the store of DFILTER_HOME for a signal or a fit."""
    running = []

    def started(*args: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(SCRIPT), *map(str, args)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return running[-1]

    yield started
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], dict[str, str]]:
    """Return the hash of every finished file under a folder."""

    def digested(folder: Path) -> dict[str, str]:
        return {
            str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        }

    return digested
