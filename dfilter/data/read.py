"""Open a source of rows: streamed once into memory-mapped Arrow, opened at once from then on.

    FOLDER/                       DFILTER_HOME/data unless given
      hashes/PATH.json            what a path's content was found to be, and the state of its files then
      KEY/rows.arrow              (key, chars, row) in record batches
      KEY/ids.arrow               the settled ids
      KEY/rejected.jsonl          rows that could not be used
      KEY/source.json             counts and shape
      KEY/seal.json               checksums of these files; written last

KEY is the hash of the files' contents, the container, the format and the mapping, and of the layout's
version. The folder appears under its name when it is whole, so a killed process leaves nothing that
could be taken for a dataset. It is verified before anything of it is mapped, once a day as long as the
state of its files shows no change: a disk can spoil what nobody wrote. A damaged one is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from dfilter.data import cards, columnar
from dfilter.data.containers import COLUMNAR, File, find_files, items_of, listed_files, one_kind, opened
from dfilter.data.csvtext import CsvRows, Dialect
from dfilter.data.dataset import Dataset, from_batches
from dfilter.data.ingest import Intake, OnBadRows, first_rows, no_usable_row, settle, unique_ids
from dfilter.data.jsonarray import WrappedRows
from dfilter.data.rejects import CutError, Reasons, Rejection, Rejections, as_line, mostly_rejected
from dfilter.data.shapes import NO_SHAPE, Shape
from dfilter.data.source import Source
from dfilter.data.unread import Met
from dfilter.digests import is_settled, state_of
from dfilter.errors import InputError, UnknownNameError
from dfilter.store.disk import claim, discard, disk_errors, sweep, write_json
from dfilter.store.disk import settle as put_in_place
from dfilter.store.seal import flaw, read_checked, seal, write_checked
from dfilter.types import Bar, Progress

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUT = 6
TAKE = "Get the whole file, or take what can be read with --on-bad-rows keep-going."
DAY_NS = 86_400 * 10**9


def open_dataset(
    source: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - as on the command line
    mapping: Mapping[str, str] | None = None,
    csv: str = "",
    config: str = "",
    split: str = "",
    on_bad_rows: OnBadRows = "auto",
    cache: Path,
    progress: Progress | None = None,
) -> Dataset:
    """Open a file, a folder or glob of shards, an ``hf://`` address or a hub id.

    The source is hashed and looked up; only what was never read is read, in one pass and bounded
    memory. Rows that cannot be used are in ``Dataset.rejected``.

    Args:
        source: where the rows are.
        format: a name of ``dfilter.data.shapes.FIELDS``, or auto.
        mapping: field to column, for instance ``{"response": "answer"}``.
        csv: how fields of CSV and TSV files are told apart, ``delimiter=;,quote=none``; see
            :class:`dfilter.data.csvtext.Dialect`.
        config: which of the configs that the folder's card names, see :mod:`dfilter.data.cards`.
        split: which of its splits; the training split unless given.
        on_bad_rows: auto records single ones, and raises for half an input: a file that is cut off, or
            of which more than half cannot be used. keep-going records both, stop raises at the first row.
        cache: the folder of opened sources.
        progress: hears of hashing and reading, in bytes.

    Raises:
        InputError: the source is missing, empty, of an unknown kind or without a usable row.
        SettingsError: an unknown format, field, or way with bad rows.
        StoreError: the cache cannot be written.
    """
    how = checked(on_bad_rows)
    mapping = dict(mapping or {})
    dialect = Dialect.parse(csv)
    files, left = _files(str(source), progress, config, split)
    with disk_errors(cache):
        hashes = [_hash_of(file, cache, progress) for file in files]
        digest = _digest(hashes)
        order = {"layout": LAYOUT, "files": hashes, "container": files[0].container, "format": format}
        order |= {
            "mapping": sorted(mapping.items()),
            "names": [f.name for f in files] if len(files) > 1 else [],
            "csv": [dialect.delimiter, dialect.quote],
        }
        key = hashlib.blake2b(json.dumps(order).encode(), digest_size=16).hexdigest()
        place = cache / key
        found = _opened(place, str(source), how)
        if found is not None:
            return with_note(found, left)
        with claim(cache / f".{key}.claim", wait=True):
            found = _opened(place, str(source), how)  # another process may have made it meanwhile
            if found is not None:
                return with_note(found, left)
            if progress is not None and place.exists():
                wrong = flaw(place, key)
                progress.say(f"The stored copy of {source} is damaged ({wrong}); it is read again.")
            made = _Reading(files, digest, format, mapping, dialect, how, progress)
            made.into(place)
        found = _opened(place, str(source), how)
    if found is None:
        raise InputError(f"{place} was removed while {source} was being opened; try again.")
    return with_note(found, left)


def checked(how: str) -> OnBadRows:
    """Return a way with bad rows, or raise for any other word."""
    for known in get_args(OnBadRows):
        if how == known:
            return cast("OnBadRows", known)
    raise UnknownNameError("way with bad rows", how, get_args(OnBadRows))


def _files(source: str, progress: Progress | None, config: str, split: str) -> tuple[list[File], str]:
    """Return the files that are to be read, and a sentence about those that are not."""
    from dfilter.data import hub

    address = hub.address_of(source)
    if address is not None:
        return hub.files_of(address, progress, config, split)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if config or split:
            raise InputError(
                f"--config and --split choose files of a folder or a hub id; {source} is neither."
            )
        return find_files(source), ""
    files = {file.path.relative_to(folder).as_posix(): file for file in listed_files(source)}
    configs, wrong = cards.card_of(folder)
    names, left = cards.choose(source, list(files), configs, config, split)
    return one_kind(source, [files[name] for name in names]), " ".join(filter(None, [left, wrong]))


def with_note(rows: Dataset, note: str) -> Dataset:
    """Add what depends on where the rows lie to what is known of their files."""
    if note:
        rows.source = replace(rows.source, notes=[note, *rows.source.notes])
    return rows


def _digest(hashes: Sequence[str]) -> str:
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.blake2b("\n".join(hashes).encode(), digest_size=32).hexdigest()


def _hash_of(file: File, cache: Path, progress: Progress | None) -> str:
    """Return a file's BLAKE2b; remembered as long as the file's state shows no change."""
    state = state_of(file.path)

    def hashed() -> str:
        digest = hashlib.blake2b(digest_size=32)
        with bar_of(progress, "hashing rows", state[0]) as bar, file.path.open("rb") as raw:
            while block := raw.read(1 << 20):
                digest.update(block)
                bar.advance(len(block))
        return digest.hexdigest()

    return _remembered(file.path, [state], cache, hashed)


def _flaw_of(place: Path) -> str:
    """Return what is wrong with the folder of a dataset; "" is remembered for a day."""
    try:
        states = [state_of(file) for file in sorted(place.iterdir())]
    except OSError:
        states = []
    if not states:
        return f"{place.name} is missing"
    return _remembered(place, states, place.parent, lambda: flaw(place, place.name), but=DAY_NS)


def _remembered(
    path: Path, states: Sequence[Sequence[int]], cache: Path, look: Callable[[], str], but: int | None = None
) -> str:
    """Return what ``look`` finds; what it found earlier while the states are those of then.

    Args:
        path: what is looked at.
        states: of all its files, taken before this call.
        cache: the folder of opened sources.
        look: finds it.
        but: the age in ns from which on it is looked again; none for never.
    """
    name = str(path.absolute())
    known = cache / "hashes" / f"{hashlib.blake2b(os.fsencode(name)).hexdigest()[:32]}.json"
    now = time.time_ns()
    held = read_checked(known) or {}
    same = (held.get("path"), held.get("states")) == (name, [list(state) for state in states])
    known_then = same and all(is_settled(state, held["taken"]) for state in states)
    if known_then and (but is None or 0 <= now - held["taken"] < but):
        return str(held["found"])
    found = look()
    with suppress(OSError):  # of a store that may only be read: it is looked again each time
        known.parent.mkdir(parents=True, exist_ok=True)
        write_checked(known, {"path": name, "states": states, "taken": now, "found": found})
    return found


def _opened(place: Path, source: str, how: OnBadRows) -> Dataset | None:
    """Return the dataset that a folder holds, or none when it is absent or damaged."""
    import pyarrow as pa

    if _flaw_of(place):
        return None
    try:
        about = json.loads((place / "source.json").read_text(encoding="utf-8"))
        rows = pa.ipc.open_file(pa.memory_map(str(place / "rows.arrow")))
        ids = pa.ipc.open_file(pa.memory_map(str(place / "ids.arrow"))).read_all().column("id")
        batches = [rows.get_batch(i) for i in range(rows.num_record_batches)]
    except (OSError, ValueError):  # it vanished between the two looks
        return None
    shape = Shape(about["shape"]["name"], about["shape"]["columns"], frozenset(about["shape"]["mapped"]))
    counted = Source(**(about["source"] | {"path": source}))
    rejected = Rejections(counted.rejected, place / "rejected.jsonl")
    if how == "stop":
        for rejection in rejected:
            raise InputError(rejection.sentence())
    if how != "keep-going" and about["half"]:
        raise InputError(about["half"][0])
    typed = counted.container in COLUMNAR
    metadata = rows.schema.metadata
    columns = about["columns"]
    return from_batches(batches, ids, shape, counted, rejected, columns, typed=typed, metadata=metadata)


@dataclass
class _Reading:
    """One pass over a source's files."""

    files: Sequence[File]
    digest: str
    format: str
    mapping: Mapping[str, str]
    dialect: Dialect
    how: OnBadRows
    progress: Progress | None
    half: list[str] = field(default_factory=list)  # sentences about files that are not whole
    notes: list[str] = field(default_factory=list)

    def into(self, place: Path) -> None:
        """Make the folder of the dataset."""
        sweep(place.parent, place.name)
        scratch = place.with_name(f".{place.name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        try:
            about = self._unchanged(scratch)
            write_json(scratch / "source.json", about)
            seal(scratch, place.name)
            if place.exists():  # damaged, or it would have been opened
                discard(place)
            put_in_place(scratch, place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _unchanged(self, scratch: Path) -> dict[str, Any]:
        """Fill the folder from files that are the same before and after."""
        try:
            before = [state_of(file.path) for file in self.files]
            about = self._fill(scratch)
            if [state_of(file.path) for file in self.files] == before:
                return about
        except FileNotFoundError as error:
            if all(file.path.exists() for file in self.files):
                raise
            raise InputError(f"{error.filename} was removed while it was read.") from None
        raise InputError(f"{self._where} was changed while it was read; try again when it is whole.")

    @property
    def _where(self) -> str:
        first = self.files[0].path
        return str(first) if len(self.files) == 1 else f"{first.parent} ({len(self.files)} files)"

    def _fill(self, scratch: Path) -> dict[str, Any]:
        import pyarrow as pa

        container = self.files[0].container
        table = columnar.schema_of(self.files) if container in COLUMNAR else None
        shape = self._shape(table)
        row_type = pa.large_string() if table is None else pa.struct(list(table))
        schema = pa.schema([("key", pa.binary(16)), ("chars", pa.int64()), ("row", row_type)])
        if table is not None:
            schema = schema.with_metadata(table.metadata)
        with (
            (scratch / "rejected.jsonl").open("w", encoding="utf-8", newline="\n") as rejects,
            pa.OSFile(str(scratch / "rows.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            intake = Intake(writer.write_batch, lambda r: self._refused(rejects, r), Met(shape or NO_SHAPE))
            self._pour(intake, shape, table)
        if not intake.kept or shape is None:
            raise no_usable_row(self._where, intake)
        ids, duplicates = unique_ids(intake.ids, from_csv=container in {"csv", "tsv"})
        with pa.ipc.new_file(str(scratch / "ids.arrow"), pa.schema([("id", pa.large_string())])) as writer:
            writer.write_table(pa.table({"id": ids}))
        names = [file.name for file in self.files]
        counts = (intake.read, intake.rejected, duplicates)
        self.notes += intake.met.notes()
        source = Source(
            "", self.digest, container, shape.name, dict(shape.columns), names, *counts, self.notes
        )
        return {
            "source": source.as_json(),
            "shape": {"name": shape.name, "columns": dict(shape.columns), "mapped": sorted(shape.mapped)},
            "columns": list(intake.met.columns),
            "half": self.half,
        }

    def _shape(self, table: pa.Schema | None) -> Shape | None:
        """Detect the shape from the first rows of the first file that has any."""
        for file in self.files:
            rows: Sequence[Any] = ()
            with suppress(CutError):  # it is told of when the file is read
                if table is not None:
                    rows = columnar.first_rows(columnar.batches(file, table))
                else:
                    with opened(file, lambda _: None) as stream:
                        rows = first_rows(items_of(file, stream, self.dialect))
            if rows:
                return settle(list(rows), self.format, self.mapping, str(file.path))
        return None

    def _pour(self, intake: Intake, shape: Shape | None, table: pa.Schema | None) -> None:
        total = sum(file.path.stat().st_size for file in self.files)
        reading = shape or NO_SHAPE
        with bar_of(self.progress, "reading rows", total) as bar:
            for file in self.files:
                self._file, self._reasons = file, Reasons()
                read = intake.read
                try:
                    if table is not None:
                        intake.take_columnar(columnar.batches(file, table), reading)
                        bar.advance(file.path.stat().st_size)
                    else:
                        with opened(file, bar.advance) as stream:
                            items = items_of(file, stream, self.dialect)
                            intake.take(items, reading)
                            self.notes += items.notes if isinstance(items, CsvRows | WrappedRows) else ()
                except CutError as cut:
                    self._cut(intake, cut, intake.read - read)
                count = intake.read - read
                if len(self.files) > 1 or self._reasons.total < count:  # else there is no usable row at all
                    self._incomplete(mostly_rejected(file.name, count, self._reasons))
            intake.flush()

    def _cut(self, intake: Intake, cut: CutError, rows: int) -> None:
        """Note that a file ends in the middle, as a row that cannot be used."""
        before = f"{rows:,} rows stand before that"
        self._incomplete(f"{self._file.name} is damaged or cut off: {cut}; {before}. {TAKE}")
        intake.read += 1
        intake.refuse(Rejection(cut.place or rows + 1, f"the file is damaged or cut off here: {cut}"))

    def _incomplete(self, sentence: str) -> None:
        if sentence and self.how != "keep-going":
            raise InputError(sentence)
        self.half += filter(None, [sentence])

    def _refused(self, out: Any, rejection: Rejection) -> None:
        if len(self.files) > 1:
            rejection = Rejection(rejection.line, rejection.reason, rejection.raw, self._file.name)
        if self.how == "stop":
            raise InputError(rejection.sentence())
        self._reasons.add(rejection.reason)
        out.write(as_line(rejection.record()))


class _Quiet:
    def advance(self, amount: float, note: str = "") -> None:
        """Take note of nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> Literal[False] | None:
        return None


def bar_of(progress: Progress | None, name: str, total: float) -> Bar:
    """Return a stage's bar; a silent one without a progress or for what takes no time."""
    if progress is None or total < 1 << 24:
        return _Quiet()
    return progress.stage(name, total=total, unit="bytes")
