"""Whatever file of the store is damaged, the same command gives the same selection and mends the store."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dfilter
from dfilter import pool, registry, run, strategy
from dfilter.data import load
from dfilter.embed import adapters, checkpoints, directions, encoder
from dfilter.embed.sentences import Embedding
from dfilter.errors import StoreError
from dfilter.pool import Pool
from dfilter.progress import Silent
from dfilter.store import home

# Figures that a repeated training cannot repeat, and what seals them.
TIMED = {"training.json", "done"}
LESS = ["less.model=tiny", "less.dtype=float32", "less.warmup=0.2", "less.epochs=2", "less.max_tokens=128"]


def forget() -> None:
    """Forget what this process has loaded, as the next command would."""
    for loaded in (encoder._load, adapters._load, checkpoints._adam, directions._read):
        loaded.cache_clear()


def chosen(strategy: str, keep: str, settings: list[str], target: Path | None) -> bytes:
    """Run a strategy over the sample pool; return everything that was decided."""
    said = Silent()
    rows = run.sample_pool(said)
    found = dfilter.select(
        rows, strategy=strategy, keep=keep, settings=settings, target=target, progress=said
    )
    out = io.BytesIO(repr(([int(row) for row in found.kept], found.ids, found.facts)).encode())
    out.seek(0, io.SEEK_END)
    pq.write_table(pa.table(found.decisions()), out)
    return out.getvalue()


def cheap() -> list[bytes]:
    """Strategies whose signals and fits cost little: a random model of 0.2 M weights embeds."""
    forget()
    kcenter = ["embedding.model=tiny", "embedding.dtype=float32", "clusters=4"]
    vectors = Pool(load(run.sample_pool(Silent()))).signal(Embedding(model="tiny", dtype="float32"))
    return [
        vectors.tobytes(),  # where the fits are whole, k-center does not ask for them
        chosen("kcenter", "12", [f"kcenter.{setting}" for setting in kcenter], None),
        chosen("lima", "20", [], None),
        chosen("longest", "20", ["longest.unit=tokens", "longest.tokenizer=tiny"], None),
    ]


BASE = re.compile(rb'"base_model_name_or_path": "[^"]*"')  # a store that moved has another one


def stored(store: Path) -> dict[str, bytes]:
    """Return signals, fits and opened data, by path; without what tells the time, or where a base lies."""
    found = {}
    for kind in ("signals", "fits", "data", "sample"):
        for file in sorted((store / kind).rglob("*")):
            path = file.relative_to(store)
            timed = file.name in TIMED or (path.parts[1].startswith("warmup-") and file.name == "seal.json")
            if file.is_file() and "hashes" not in path.parts and not timed and not file.name.startswith("."):
                found[str(path)] = BASE.sub(b"", file.read_bytes())
    return found


@dataclass(frozen=True)
class Fresh:
    """A store that nothing damaged, and what was chosen with it."""

    folder: Path
    chosen: list[bytes]
    stored: dict[str, bytes]

    def copied(self) -> Path:
        """Put a copy in the place of the store."""
        shutil.rmtree(home(), ignore_errors=True)
        return Path(shutil.copytree(self.folder, home()))


def made(folder: Path, work: Callable[[], list[bytes]]) -> Fresh:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(folder))
        found = work()
        return Fresh(folder, found, stored(folder))


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SAMPLE_ROWS", 80)
    monkeypatch.setattr(pool, "SHARD_ROWS", 32)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_ROWS", 80)
        patch.setattr(pool, "SHARD_ROWS", 32)
        return made(tmp_path_factory.mktemp("fresh"), cheap)


def survives(damages: ModuleType, numbers: range, work: Callable[[], list[bytes]], fresh: Fresh) -> None:
    for number in numbers:
        store = fresh.copied()
        damage = damages.drawn(store, number)
        damage.do(store)
        try:
            assert work() == fresh.chosen, damage
            now = stored(store)
            assert {path: now.get(path) for path in fresh.stored} == fresh.stored, damage
        except Exception as error:
            raise AssertionError(damage) from error


def flip(file: Path, _: Path) -> None:
    whole = bytearray(file.read_bytes())
    for at in range(len(whole) // 2, min(len(whole) // 2 + 4, len(whole))):
        whole[at] ^= 255
    file.write_bytes(whole)


def zero(file: Path, _: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


def not_a_number(file: Path, _: Path) -> None:
    with file.open("r+b") as out:
        out.seek(-64, io.SEEK_END)
        out.write(np.full(16, np.nan, np.float32).tobytes())


def cut(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def swap(file: Path, other: Path) -> None:
    ours = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(ours)


@pytest.mark.parametrize(
    ("where", "damage"),
    [
        ("signals/embedding-*/**/*", flip),
        ("signals/embedding-*/**/*", zero),
        ("signals/embedding-*/**/*", not_a_number),
        ("signals/embedding-*/**/*", cut),
        ("signals/embedding-*/**/*", swap),
        ("fits/*/**/*", flip),
        ("fits/*/**/*", cut),
        ("data/*/rows.arrow", flip),
        ("data/*/ids.arrow", flip),
        ("sample/*/*", flip),
    ],
)
def test_each_file_of_a_kind_may_be_damaged(
    fresh: Fresh, where: str, damage: Callable[[Path, Path], None]
) -> None:
    files = sorted(file for file in fresh.copied().glob(where) if file.is_file() and file.stat().st_size > 64)
    assert files
    for file, other in zip(files, [*files[1:], files[0]], strict=True):
        damage(file, other)
        assert cheap() == fresh.chosen, file
        assert stored(home()) == fresh.stored, file


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "within").mkdir(parents=True)


def a_link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def a_copy_beside(path: Path) -> None:
    shutil.copytree(path, path.with_name(f"{path.name}.bak"))


def a_damaged_link(path: Path) -> None:
    elsewhere = path.with_name(f".moved-{path.name}")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    flip(max((f for f in elsewhere.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size), elsewhere)


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("fits/*/spec.json", a_folder),
        ("fits/*/spec.json", a_link_in_a_circle),
        ("signals/*/spec.json", a_folder),
        ("signals/*/*.shard", a_folder),
        ("data/hashes/*.json", a_folder),
        ("data/hashes", a_file),
        ("fits/*", a_file),
        ("fits/*/length-*", a_file),
        ("fits/*/length-*", a_copy_beside),
        ("fits/*/length-*", a_damaged_link),
    ],
)
def test_what_stands_in_the_place_of_another_kind_is_mended_or_named(
    fresh: Fresh, where: str, change: Callable[[Path], None]
) -> None:
    change(min(fresh.copied().glob(where)))
    with contextlib.suppress(StoreError):  # a sentence
        assert cheap() == fresh.chosen


@pytest.mark.parametrize("numbers", [range(30), pytest.param(range(30, 330), marks=pytest.mark.soak)])
def test_any_damage_is_noticed_and_mended(damages: ModuleType, fresh: Fresh, numbers: range) -> None:
    survives(damages, numbers, cheap, fresh)


@pytest.mark.soak
def test_any_damage_to_what_less_keeps_is_noticed_and_mended(
    damages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SAMPLE_ROWS", 40)

    def work() -> list[bytes]:
        forget()
        rows = run.sample_pool(Silent())
        # What a warm-up is made of is read once; asked for here, it is noticed and mended too.
        warmup = strategy.load("less", LESS).filters[0].training(0)
        registry.create("trainers", warmup.trainer, warmup.settings()).screen(Pool(load(rows)))
        return [chosen("less", "10", LESS, rows.with_name("heldout.jsonl"))]

    survives(damages, range(100), work, made(tmp_path / "fresh", work))
