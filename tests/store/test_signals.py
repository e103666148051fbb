"""Signals are computed once a row content, stored in whole shards, and shared by everybody who asks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter import Example, Pool
from dfilter.errors import StoreError
from dfilter.pool import Store
from dfilter.store import place_name, spec_hash
from dfilter.store.disk import claim, settle, write_json
from dfilter.store.shards import Shards, plan, shard_name


@pytest.fixture
def ask(counting: ModuleType, tmp_path: Path) -> Any:
    """Ask for the signal of rows; return its values and the texts that had to be computed for them."""
    log = tmp_path / "log"
    signal = counting.Characters(str(log))

    def asked(rows: Any, factor: int = 1) -> tuple[list[int], list[str]]:
        before = len(counting.noted(log))
        pool = Pool(rows, store=Store(tmp_path / "store"))
        values = pool.signal(counting.Characters(signal.log, factor=factor)).tolist()
        return values, [text for shard in counting.noted(log)[before:] for text in shard]

    return asked


def expected(rows: Sequence[Example]) -> list[int]:
    return [len(row.text) for row in rows]


def folder(tmp_path: Path) -> Path:
    (place,) = (tmp_path / "store" / "signals").iterdir()
    return place


def test_values_are_aligned_with_the_rows(counting: ModuleType, ask: Any) -> None:
    rows = counting.dataset(100, copies=7)
    values, computed = ask(rows)
    assert values == expected(rows)
    assert len(computed) == len(set(computed)) == 100  # copies cost nothing


def test_what_is_stored_is_not_computed_again(counting: ModuleType, ask: Any) -> None:
    rows = counting.dataset(100)
    ask(rows)
    for again in (rows, rows.take(np.arange(99, -1, -1)), rows.take([5, 5, 3]), counting.dataset(100)):
        assert ask(again) == (expected(again), [])


def test_a_dataset_that_grew_by_one_percent_computes_one_percent(counting: ModuleType, ask: Any) -> None:
    ask(counting.dataset(1000))
    grown = counting.dataset(1010)
    values, computed = ask(grown)
    assert values == expected(grown)
    assert len(computed) == 10


def test_other_settings_have_a_place_of_their_own(counting: ModuleType, ask: Any) -> None:
    rows = counting.dataset(20)
    ask(rows)
    values, computed = ask(rows, factor=3)
    assert values == [3 * n for n in expected(rows)]
    assert len(computed) == 20


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=60), min_size=1, max_size=5))
def test_whatever_is_asked_in_whatever_order_is_computed_once(
    counting: ModuleType, tmp_path_factory: pytest.TempPathFactory, wishes: list[list[int]]
) -> None:
    place = tmp_path_factory.mktemp("any")
    signal = counting.Characters(str(place / "log"))
    rows = counting.dataset(60)
    for wish in wishes:
        some = rows.take(wish)
        assert Pool(some, store=Store(place)).signal(signal).tolist() == expected(some)
    computed = [text for shard in counting.noted(place / "log") for text in shard]
    assert sorted(computed) == sorted({rows[i].text for wish in wishes for i in wish})


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 20))
def test_shards_are_longest_first_and_only_the_last_is_short(contents: list[int], size: int) -> None:
    keys = np.array([np.random.default_rng(c).integers(0, 256, 16) for c in contents], np.uint8)
    lengths = np.array([c // 3 for c in contents], np.int64)
    cuts = plan(keys, lengths, size)
    rows = [row for cut in cuts for row in cut.tolist()]
    assert sorted(contents[row] for row in rows) == sorted(set(contents))
    assert [lengths[row] for row in rows] == sorted((lengths[row] for row in rows), reverse=True)
    assert all(len(cut) == size for cut in cuts[:-1])
    order = np.random.default_rng(len(contents)).permutation(len(contents))
    names = [shard_name(keys[cut]) for cut in cuts]
    assert [shard_name(keys[order][cut]) for cut in plan(keys[order], lengths[order], size)] == names
    for finished in range(len(cuts)):  # the rest is cut into the same shards
        rest = np.isin(keys.view("V16").ravel(), keys[cuts[finished]].view("V16").ravel(), invert=True)
        again = plan(keys[rest], lengths[rest], size)
        assert [shard_name(keys[rest][cut]) for cut in again] == names[:finished] + names[finished + 1 :]


def cut_values(shard: Path) -> None:
    values = shard / "values.npy"
    values.write_bytes(values.read_bytes()[:-3])


def empty_values(shard: Path) -> None:
    (shard / "values.npy").write_bytes(b"")


def other_values(shard: Path) -> None:
    np.save(shard / "values.npy", np.zeros(3, np.int64))


def other_keys(shard: Path) -> None:
    keys = np.load(shard / "keys.npy")
    keys[0, 0] ^= 1
    np.save(shard / "keys.npy", keys)


def no_keys(shard: Path) -> None:
    (shard / "keys.npy").unlink()


def zeroed(shard: Path) -> None:
    for file in shard.iterdir():
        file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("damage", [cut_values, empty_values, other_values, other_keys, no_keys, zeroed])
def test_a_damaged_shard_is_computed_again_and_no_other(
    counting: ModuleType, ask: Any, tmp_path: Path, damage: Any
) -> None:
    rows = counting.dataset(50)
    ask(rows)
    shards = Shards(folder(tmp_path))
    names = shards.names()
    texts = {row.key: row.text for row in rows}
    theirs = [texts[key.tobytes()] for key in np.load(shards.folder / names[1] / "keys.npy")]
    damage(shards.folder / names[1])
    values, computed = ask(rows)
    assert values == expected(rows)
    assert sorted(computed) == sorted(theirs)
    assert shards.names() == names


def test_what_a_killed_process_left_half_written_is_nothing(
    counting: ModuleType, ask: Any, tmp_path: Path
) -> None:
    rows = counting.dataset(50)
    ask(rows)
    shards = Shards(folder(tmp_path))
    name = shards.names()[0]
    (shards.folder / name).rename(shards.folder / f".part-{name}")
    assert name not in shards.names()
    values, computed = ask(rows)
    assert values == expected(rows)
    assert len(computed) in {16, 2}


def test_a_lock_of_a_dead_process_holds_nobody_up(counting: ModuleType, ask: Any, tmp_path: Path) -> None:
    rows = counting.dataset(20)
    ask(rows)
    shards = Shards(folder(tmp_path))
    for name in shards.names():
        (shards.folder / ".claims" / name).touch()
        shutil.rmtree(shards.folder / name)
    assert ask(rows)[0] == expected(rows)


@dataclass(frozen=True)
class Table:
    """Three numbers and a status a row."""

    def spec(self) -> dict[str, Any]:
        return {}

    def compute(self, rows: Sequence[Example]) -> Any:
        out = np.zeros(len(rows), [("value", np.float32, 3), ("status", "U4")])
        out["value"] = [[len(row.text), 1.5, np.nan] for row in rows]
        out["status"] = "ok"
        return out


def test_structured_values_come_back_as_they_were(counting: ModuleType, tmp_path: Path) -> None:
    rows = counting.dataset(40)
    for _ in range(2):
        values = Pool(rows, store=Store(tmp_path)).signal(Table())
        assert values.dtype == np.dtype([("value", np.float32, 3), ("status", "U4")])
        assert values["value"][:, 0].tolist() == expected(rows)
        assert np.isnan(values["value"][:, 2]).all()
        assert set(values["status"]) == {"ok"}


@dataclass(frozen=True)
class Says:
    """Returns what it is told to."""

    what: Any

    def spec(self) -> dict[str, Any]:
        return {"what": str(self.what)}

    def compute(self, rows: Sequence[Example]) -> Any:
        return self.what(rows)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (list, "must return an array of numbers"),
        (lambda rows: np.array([row.id for row in rows], object), "must return an array of numbers"),
        (lambda rows: np.zeros(len(rows) + 1), r"returned shape \(21,\) for 20 rows"),
        (lambda rows: np.float64(3.0), "must return an array"),
        (lambda rows: np.array(3.0), "expected one value a row"),
    ],
)
def test_values_that_cannot_be_stored_are_refused_by_name(
    counting: ModuleType, tmp_path: Path, what: Any, sentence: str
) -> None:
    with pytest.raises(StoreError, match=sentence) as caught:
        Pool(counting.dataset(20), store=Store(tmp_path)).signal(Says(what))
    assert "Signal Says" in str(caught.value)


def test_a_signal_whose_type_changes_is_refused(counting: ModuleType, tmp_path: Path) -> None:
    types: Iterator[Any] = iter([np.float32, np.float64])

    @dataclass(frozen=True)
    class Fickle:
        shard_rows = 16

        def spec(self) -> dict[str, Any]:
            return {}

        def compute(self, rows: Sequence[Example]) -> Any:
            return np.zeros(len(rows), next(types))

    with pytest.raises(StoreError, match="a signal's type is fixed"):
        Pool(counting.dataset(20), store=Store(tmp_path)).signal(Fickle())


def test_the_spec_is_beside_the_values(counting: ModuleType, ask: Any, tmp_path: Path) -> None:
    ask(counting.dataset(20), factor=4)
    assert '"factor": 4' in (folder(tmp_path) / "spec.json").read_text()
    assert folder(tmp_path).name == place_name(counting.Characters(""), {"factor": 4})


def test_a_spec_names_one_place_whatever_the_order_of_its_keys() -> None:
    assert spec_hash({"a": 1, "b": [2, {"d": 1, "c": 2}]}) == spec_hash({"b": [2, {"c": 2, "d": 1}], "a": 1})
    assert spec_hash({"a": 1}) != spec_hash({"a": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        spec_hash({"a": float("nan")})


def test_what_was_stored_and_computed_is_counted(counting: ModuleType, tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = counting.dataset(30)
    signal = counting.Characters(str(tmp_path / "log"))
    Pool(rows.take(range(10)), store=store).signal(signal)
    Pool(rows, store=store).signal(signal)
    assert [(e["stored"], e["computed"]) for e in store.log] == [(0, 10), (10, 20)]


# Several processes, and disks


@pytest.mark.serial
def test_two_processes_at_once_share_the_work(
    counting: ModuleType, start: Any, digest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "alone"))
    assert start("signal", 480, 0, tmp_path / "log0").wait() == 0
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "shared"))
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("MEET", f"{tmp_path / 'meeting'}:2")
    logs, outs = ([tmp_path / f"{what}{i}" for i in (1, 2)] for what in ("log", "out"))
    both = [start("signal", 480, 0.1, log, f"{out}.npy") for log, out in zip(logs, outs, strict=True)]
    assert [process.wait() for process in both] == [0, 0]
    parts = [[tuple(shard) for shard in counting.noted(log)] for log in logs]
    assert len(parts[0]) + len(parts[1]) == 30
    assert not set(parts[0]) & set(parts[1])
    assert min(map(len, parts)) > 0
    assert digest(tmp_path / "shared") == digest(tmp_path / "alone")
    first, second = (np.load(f"{out}.npy") for out in outs)
    assert first.tolist() == second.tolist() == expected(counting.dataset(480))


@pytest.mark.serial
@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_at_random_moments_the_same_bytes_and_nothing_computed_twice(
    counting: ModuleType, digest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any, times: int
) -> None:
    def command(log: Path) -> list[str]:
        return [sys.executable, counting.__file__, "signal", "800", "0", str(log)]

    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "calm"))
    changes = dying.whole(command(tmp_path / "calm.log"))
    monkeypatch.setenv("DFILTER_HOME", str(tmp_path / "killed"))
    log = tmp_path / "killed.log"
    dying.killed(command(log), changes, times)
    dying.whole(command(log))
    assert digest(tmp_path / "killed") == digest(tmp_path / "calm")
    begun = [tuple(shard) for shard in counting.noted(log)]
    assert set(begun) == {tuple(shard) for shard in counting.noted(tmp_path / "calm.log")}
    # A kill costs the shard that was being computed and no other.
    assert len(begun) - len(set(begun)) <= times
    assert not list((tmp_path / "killed").rglob(".claims/*"))


def test_a_claim_has_one_holder_whatever_the_others_do(tmp_path: Path) -> None:
    """A waiting process may obtain the lock of a file that is gone; it must not hold beside a new one."""
    file = tmp_path / "claim"
    holders, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal holders, most
        for _ in range(60):
            with claim(file, wait=True) as mine:
                assert mine
                with lock:
                    holders += 1
                    most = max(most, holders)
                time.sleep(0.0005)
                with lock:
                    holders -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    with claim(file, wait=False) as mine, claim(file, wait=False) as theirs:
        assert (mine, theirs) == (True, False)


def test_a_full_disk_is_said_in_a_sentence_and_the_rest_continues(
    counting: ModuleType, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counting.dataset(50)
    save, left = np.save, [3]

    def full(*args: Any, **kwargs: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        save(*args, **kwargs)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StoreError, match=r"The disk that holds .* is full\. Free some space"):
        ask(rows)
    left[0] = 1000
    values, computed = ask(rows)
    assert values == expected(rows)
    assert len(computed) == 34  # the first of four shards was stored


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_really_full_is_said_in_a_sentence(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setenv("DFILTER_HOME", str(disk))
        process = start("signal", 800, 0, tmp_path / "log")
        _, errors = process.communicate()
        assert process.returncode == 1  # the script shows the exception; the command line its sentence
        assert b"StoreError: The disk that holds" in errors.splitlines()[-1]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(
    counting: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StoreError, match="cannot be written: Permission denied"):
        Pool(counting.dataset(20), store=Store(tmp_path)).signal(counting.Characters(str(tmp_path / "log")))


def test_settling_leaves_the_first_one_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert settle(tmp_path / "a", tmp_path / "final")
    assert not settle(tmp_path / "b", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "a"
    assert (tmp_path / "b").is_dir()


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    before = file.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": float("nan")})
    assert file.read_text() == before
