"""A file of arrays gives back what was written or refuses, whatever byte of it changed."""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from dfilter.errors import DamagedError, OtherFormatError, StoreError
from dfilter.store.arrays import ALIGNED, MAGIC, PREFIX, VERSION, _prefix_checksum, read_arrays, write_arrays
from dfilter.store.disk import disk_errors

SCALAR = some.scalar_dtypes()
FIELD = st.one_of(SCALAR, st.tuples(SCALAR, st.integers(1, 3)).map(np.dtype))
TABLE = st.lists(FIELD, min_size=1, max_size=3).map(
    lambda kinds: np.dtype([(f"field {at}", kind) for at, kind in enumerate(kinds)])
)
NESTED = TABLE.map(lambda table: np.dtype([("n", np.int8), ("table", table, (2,))]))
DTYPES = st.one_of(SCALAR, TABLE, NESTED)
ARRAYS = some.arrays(DTYPES, some.array_shapes(min_dims=0, min_side=0, max_side=4))


def stored(path: Path) -> bytes:
    rows = np.zeros(5, [("value", np.float32, 3), ("status", "U4")])
    rows["status"] = "ok"
    arrays = {"keys": np.arange(80, dtype=np.uint8).reshape(5, 16), "values": rows, "none": np.empty((0, 3))}
    write_arrays(path, arrays, {"signal": "x", "n": [1, 2]})
    return path.read_bytes()


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1), ARRAYS, max_size=3))
def test_arrays_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a"
    write_arrays(path, arrays, {"names": list(arrays)})
    found = read_arrays(path)
    assert found.about == {"names": list(arrays)}
    assert set(found.arrays) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        assert not found[name].flags.writeable or not found[name].size


def test_every_ordinary_dtype_is_stored(tmp_path: Path) -> None:
    for dtype in ("f4", "f8", "f2", ">u8", "i8", "u1", "?", "U4", "S3", "V16", "M8[s]", "c8", "f4,i8"):
        array = np.zeros((3, 2), dtype)
        write_arrays(tmp_path / "a", {"x": array}, {})
        assert read_arrays(tmp_path / "a")["x"].dtype == array.dtype
    with pytest.raises(StoreError, match="'x' has the dtype object"):
        write_arrays(tmp_path / "b", {"x": np.array([None])}, {})
    with pytest.raises(StoreError, match="cannot be stored"):
        write_arrays(tmp_path / "b", {"x": np.zeros(2, [(("title", "name"), "f4")])}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_the_same_arrays_give_the_same_bytes_aligned(tmp_path: Path) -> None:
    first = stored(tmp_path / "a")
    assert stored(tmp_path / "b") == first
    assert len(first) % ALIGNED == 0
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    write_arrays(tmp_path / "c", {"x": values}, {})
    write_arrays(tmp_path / "d", {"x": values.copy("C")}, {})
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    whole = stored(path)
    rng = np.random.default_rng(0)
    for at in [*range(PREFIX.size), *rng.choice(len(whole), 200, replace=False).tolist()]:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match="is damaged: "):
            read_arrays(path)


def test_any_cut_and_any_addition_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    whole = stored(path)
    for size in [*range(PREFIX.size + 1), *range(PREFIX.size, len(whole), 7)]:
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match="is damaged: "):
            read_arrays(path)
    for more in (b"\0", bytes(64)):
        path.write_bytes(whole + more)
        with pytest.raises(DamagedError, match="bytes follow its last array"):
            read_arrays(path)
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(DamagedError, match="zeros"):
        read_arrays(path)


def test_another_file_in_its_place_is_noticed(tmp_path: Path) -> None:
    stored(tmp_path / "a")
    assert read_arrays(tmp_path / "a", {"signal": "x", "n": (1, 2)})["keys"].shape == (5, 16)
    with pytest.raises(DamagedError, match=r"another file: .*signal"):
        read_arrays(tmp_path / "a", {"signal": "y", "n": (1, 2)})


def test_another_format_is_no_damage(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(9))
    (tmp_path / "short").write_bytes(b"hello")
    for name in ("x.npy", "short"):
        with pytest.raises(OtherFormatError, match="no file of arrays"):
            read_arrays(tmp_path / name)
    fields = VERSION + 1, 32, zlib.crc32(b" " * 32)
    (tmp_path / "new").write_bytes(PREFIX.pack(MAGIC, *fields, _prefix_checksum(*fields)) + b" " * 32)
    with pytest.raises(OtherFormatError, match=f"version {VERSION + 1} of its format"):
        read_arrays(tmp_path / "new")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "absent")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(small_disk: Path) -> None:
    path = small_disk / "a"
    whole = stored(path)
    with pytest.raises(StoreError, match=r"The disk that holds .* is full"), disk_errors(path):
        write_arrays(path, {"x": np.ones(100_000)}, {})
    assert path.read_bytes() == whole
    assert [p.name for p in small_disk.iterdir()] == ["a"]
