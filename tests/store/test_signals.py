"""Signals are computed once a row content, stored in whole shards, and shared by everybody who asks."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
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
from dfilter.digests import json_digest
from dfilter.errors import StoreError
from dfilter.identity import kind_of
from dfilter.pool import Store
from dfilter.progress import Silent
from dfilter.store import notices
from dfilter.store import shards as shards_module
from dfilter.store.arrays import read_arrays, write_arrays
from dfilter.store.disk import claim, settle, write_json
from dfilter.store.shards import Shards, plan, shard_name


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store says."""
    lines: list[str] = []
    monkeypatch.setattr(Silent, "say", lambda _, line: lines.append(line))
    monkeypatch.setattr(notices, "_looked", set())
    return lines


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


def flip(file: Path, at: int = -70) -> None:
    whole = bytearray(file.read_bytes())
    whole[at] ^= 4
    file.write_bytes(whole)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def another_signals(file: Path) -> None:
    """The same rows' values of another signal, whole in themselves."""
    (other,) = (place for place in file.parent.parent.iterdir() if place != file.parent)
    file.write_bytes((other / file.name).read_bytes())


def another_rows(file: Path) -> None:
    other = max(place for place in file.parent.glob("*.shard") if place != file)
    file.write_bytes(other.read_bytes())


def of_other_length(file: Path) -> None:
    write_arrays(file, {"keys": np.zeros((3, 16), np.uint8), "values": np.zeros(3, np.int64)}, {})


def of_no_format(file: Path) -> None:
    np.savez(file.with_suffix(".npz"), np.zeros(3))
    file.with_suffix(".npz").replace(file)


DAMAGES = [
    flip,
    cut,
    empty,
    zeroed,
    Path.unlink,
    another_signals,
    another_rows,
    of_other_length,
    of_no_format,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_computed_again_and_no_other(
    counting: ModuleType, ask: Any, digest: Any, said: list[str], tmp_path: Path, damage: Any
) -> None:
    rows = counting.dataset(50)
    ask(rows, factor=2)
    other = set((tmp_path / "store" / "signals").iterdir())
    ask(rows)
    (place,) = set((tmp_path / "store" / "signals").iterdir()) - other
    before = digest(place)
    shards = Shards(place)
    names = shards.names()
    texts = {row.key: row.text for row in rows}
    file = place / f"{names[1]}.shard"
    theirs = [texts[key.tobytes()] for key in np.array(read_arrays(file)["keys"])]
    damage(file)
    values, computed = ask(rows)
    assert values == expected(rows)
    assert sorted(computed) == sorted(theirs)
    assert digest(place) == before
    removed = [line for line in said if line.startswith(f"Removed 1 damaged files of {place.name}")]
    assert len(removed) == len(said) == (damage is not Path.unlink)


def test_shards_that_changed_places_are_both_computed_again(
    counting: ModuleType, ask: Any, digest: Any, said: list[str], tmp_path: Path
) -> None:
    rows = counting.dataset(50)
    ask(rows)
    place = folder(tmp_path)
    before = digest(place)
    first, second = (place / f"{name}.shard" for name in Shards(place).names()[:2])
    first.rename(place / "x")
    second.rename(first)
    (place / "x").rename(second)
    assert ask(rows)[0] == expected(rows)
    assert digest(place) == before
    assert [line.split(" of ")[0] for line in said] == ["Removed 2 damaged files"]


def test_a_damaged_spec_is_written_anew(counting: ModuleType, ask: Any, digest: Any, tmp_path: Path) -> None:
    rows = counting.dataset(20)
    ask(rows)
    before = digest(folder(tmp_path))
    for damage in (cut, empty, zeroed, Path.unlink):
        damage(folder(tmp_path) / "spec.json")
        assert ask(rows) == (expected(rows), [])
        assert digest(folder(tmp_path)) == before


def test_shards_of_an_earlier_version_are_ignored_with_one_sentence(
    counting: ModuleType, ask: Any, said: list[str], tmp_path: Path
) -> None:
    old = tmp_path / "store" / "signals" / "characters-0123456789abcdef"
    old.mkdir(parents=True)
    (old / "spec.json").write_text('{"class": "Characters", "spec": {"factor": 1}}')
    rows = counting.dataset(20)
    for factor in (1, 2):
        values, computed = ask(rows, factor=factor)
        assert (values, len(computed)) == ([factor * n for n in expected(rows)], 20)
    (line,) = said
    assert line.startswith("Signals of an earlier version in ")
    assert "`dfilter cache remove characters-0123456789abcdef`" in line


def test_what_a_killed_process_left_is_nothing_and_is_cleared(
    counting: ModuleType, ask: Any, tmp_path: Path
) -> None:
    rows = counting.dataset(50)
    ask(rows)
    place = folder(tmp_path)
    name = Shards(place).names()[0]
    process = subprocess.Popen(["true"])
    process.wait()
    (place / f"{name}.shard").rename(place / f".{name}.shard.{process.pid}")
    (place / f".spec.json.{process.pid}").touch()
    for claimed in (name, "of-other-rows"):
        (place / ".claims" / claimed).touch()
    assert name not in Shards(place).names()
    values, computed = ask(rows)
    assert values == expected(rows)
    assert len(computed) in {16, 2}
    assert sorted(p.name for p in place.iterdir() if p.name.startswith(".")) == [".claims"]
    assert not list((place / ".claims").iterdir())


def test_the_scratch_of_a_living_process_stays(counting: ModuleType, ask: Any, tmp_path: Path) -> None:
    rows = counting.dataset(20)
    ask(rows)
    place = folder(tmp_path)
    with claim(place / ".claims" / "busy", wait=False):
        (place / ".busy.shard.1").touch()
        Shards(place).sweep()
        assert (place / ".claims" / "busy").exists()
        assert (place / ".busy.shard.1").exists()
    Shards(place).sweep()
    assert not (place / ".busy.shard.1").exists()


def test_a_lock_of_a_dead_process_holds_nobody_up(counting: ModuleType, ask: Any, tmp_path: Path) -> None:
    rows = counting.dataset(20)
    ask(rows)
    shards = Shards(folder(tmp_path))
    for name in shards.names():
        (shards.folder / ".claims" / name).touch()
        (shards.folder / f"{name}.shard").unlink()
    assert ask(rows)[0] == expected(rows)


def test_each_shard_is_verified_once_a_reading(
    counting: ModuleType, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counting.dataset(100)
    ask(rows)
    read, reads = shards_module.read_arrays, []

    def counted(path: Path, *args: Any) -> Any:
        reads.append(path.name)
        return read(path, *args)

    monkeypatch.setattr(shards_module, "read_arrays", counted)
    ask(rows)
    assert len(reads) == len(set(reads)) == 7


def test_values_too_large_for_memory_lie_on_the_stores_disk(
    counting: ModuleType, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counting.dataset(30)
    monkeypatch.setattr(shards_module, "IN_MEMORY_BYTES", 8)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    for _ in range(2):
        assert ask(rows)[0] == expected(rows)
    values = Pool(rows, store=Store(tmp_path / "store")).signal(counting.Characters(""))
    assert isinstance(values, np.memmap)
    assert sorted(p.suffix for p in folder(tmp_path).iterdir() if p.is_file()) == [
        ".json",
        ".shard",
        ".shard",
    ]


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
    assert folder(tmp_path).name == kind_of(counting.Characters(""), "signals").place({"factor": 4})


def test_a_spec_names_one_place_whatever_the_order_of_its_keys() -> None:
    assert json_digest({"a": 1, "b": [2, {"d": 1, "c": 2}]}) == json_digest(
        {"b": [2, {"c": 2, "d": 1}], "a": 1}
    )
    assert json_digest({"a": 1}) != json_digest({"a": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        json_digest({"a": float("nan")})


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


@pytest.mark.kills
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
    write, left = os.write, [4]  # prefix, header, keys and values of the first shard

    def full(handle: int, data: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"The disk that holds .* is full\. Free some space"):
        ask(rows)
    left[0] = 1000
    values, computed = ask(rows)
    assert values == expected(rows)
    assert len(computed) == 34  # the first of four shards was stored


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_is_said_in_a_sentence_and_the_rest_continues(
    counting: ModuleType, disk: Path, tmp_path: Path
) -> None:
    rows = counting.dataset(160)
    signal = counting.Characters(str(tmp_path / "log"))
    filler = disk / "filler"
    for kilobytes in range(256, 160, -4):
        filler.write_bytes(b"")
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(kilobytes << 10))
        with contextlib.suppress(StoreError):
            Pool(rows, store=Store(disk)).signal(signal)
            break
    else:
        pytest.fail("it never fitted")
    filler.write_bytes(bytes(1 << 10))
    assert Pool(rows, store=Store(disk)).signal(signal).tolist() == expected(rows)
    computed = [text for shard in counting.noted(tmp_path / "log") for text in shard]
    assert len(set(computed)) == 160


def test_a_disk_without_room_for_the_result_is_said_in_a_sentence(
    counting: ModuleType, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counting.dataset(160)
    signal = counting.Characters(str(tmp_path / "log"))
    expect = Pool(rows, store=Store(disk)).signal(signal)
    monkeypatch.setattr(shards_module, "IN_MEMORY_BYTES", 8)
    many = rows.take(np.arange(160).repeat(400))
    with pytest.raises(StoreError, match=r"The disk that holds .* is full"):
        Pool(many, store=Store(disk)).signal(signal)
    assert Pool(rows, store=Store(disk)).signal(signal).tolist() == expect.tolist()


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
