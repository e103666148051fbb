"""The rows that a comparison's strategies select from: the data without what is set aside beforehand.

Set aside are rows to measure on, with all that repeat their prompts, and rows that the trainer could learn
nothing from, because the model's template, window or tokenizer cannot show them: whoever drew one would train
on a row less than the table says.

    pool.jsonl       the data without what was set aside (only when something was)
    heldout.jsonl    what is measured on (only with a share)
    left_out.jsonl   ids and reasons of rows that cannot be trained on (only when there are some)
    split.json       what the files were made of, their hashes, and the number of rows by reason
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dfilter.data.dataset import Dataset
from dfilter.data.detect import detect
from dfilter.data.ingest import FIRST_ROWS
from dfilter.data.write import replacing
from dfilter.digests import file_sha256
from dfilter.errors import FolderError, InputError
from dfilter.pool import Pool
from dfilter.selector import Budget
from dfilter.store.disk import discard
from dfilter.store.seal import read_checked, write_checked
from dfilter.textmatch import set_aside
from dfilter.types import Progress, Screening

POOL, HELDOUT, LEFT_OUT, SPLIT = "pool.jsonl", "heldout.jsonl", "left_out.jsonl", "split.json"
SPLIT_PARTS = ".split"  # where the files are written before they are put in place


def untrainable(trainer: object, rows: Dataset, progress: Progress) -> dict[int, str]:
    """Return the rows that a trainer could learn nothing from, by place, with the reason.

    Raises:
        InputError: it could learn nothing from any row.
    """
    found = dict(trainer.screen(Pool(rows, progress=progress))) if isinstance(trainer, Screening) else {}
    if found and len(found) == len(rows):
        why = "; ".join(f"{count:,}: {reason}" for reason, count in Counter(found.values()).most_common(3))
        raise InputError(f"The model can be trained on none of the {len(rows):,} rows ({why}).")
    return found


def written(
    out: Path,
    rows: Dataset,
    share: str,
    left_out: Mapping[int, str],
    of: str,
    progress: Progress,
    known: Collection[str] = (),
) -> str:
    """Write the pool and what is set aside as files of their own, and return where the pool is.

    Files that stand there already are used if they are those of this split, whole and unchanged.

    Args:
        out: the comparison's folder.
        rows: the data.
        share: to measure on, such as "2%"; empty for none.
        left_out: see :func:`untrainable`.
        of: a digest of all that the files depend on.
        progress: where it is said.
        known: names of files that are the comparison's own, whatever split.json says.

    Raises:
        FolderError: a file of one of their names is there, and the comparison did not write it.
    """
    names = [POOL, *[HELDOUT] * bool(share), *[LEFT_OUT] * bool(left_out)]
    held = read_checked(out / SPLIT)
    if held is not None and held.get("of") == of and held.get("files") == _hashes(out, names):
        return str(out / POOL)
    if held is not None:
        progress.say(f"The held-out rows in {out} are not what was written; they are set aside again.")
    parts = out / SPLIT_PARTS
    discard(parts)
    parts.mkdir(parents=True)
    try:
        _leave_out(parts, rows, left_out, progress)
        usable = rows.take(np.setdiff1d(np.arange(len(rows)), np.array([*left_out], dtype=np.int64)))
        if share:
            _measure_on(parts, usable, share, progress)
        else:
            usable.write(parts / POOL)
        hashes = _hashes(parts, names)
        _refuse_users(out, hashes, {*known, *_recorded(held)})
        unwritten(out, but=names)
        told = {"left_out": dict(Counter(left_out.values()))} if left_out else {}
        write_checked(out / SPLIT, {"of": of, "files": hashes, **told})  # first: it tells whose they are
        for name in names:
            discard(out / name)
            (parts / name).replace(out / name)
    finally:
        discard(parts)
    return str(out / POOL)


def unwritten(out: Path, but: Collection[str] = ()) -> None:
    """Remove what an earlier split of this comparison wrote and nobody changed since."""
    files = _recorded(read_checked(out / SPLIT))
    for name, told in files.items():
        if name not in but and _hashes(out, [name]) == {name: told}:
            (out / name).unlink()
    if files and not but:
        (out / SPLIT).unlink()


def _recorded(held: Mapping[str, Any] | None) -> dict[str, str]:
    files = (held or {}).get("files")
    return dict(files) if isinstance(files, dict) else {}


def _refuse_users(out: Path, hashes: Mapping[str, str], ours: Collection[str]) -> None:
    """Refuse to write over a file that somebody else put there; what says the same may be ours."""
    there = {name for name in hashes if os.path.lexists(out / name)} - set(ours)
    if theirs := sorted(name for name in there if _hashes(out, [name]) != {name: hashes[name]}):
        raise FolderError(
            f"{', '.join(theirs)} in {out} was not written by the comparison, which keeps a file of its own "
            "under that name. Move it away, or choose another -o."
        )


def misleading(file: Path, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape of a file that was written of the data, where its own rows look like another one's.

    Versions that did not tell the reader trained and measured on what they looked like.
    """
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, FIRST_ROWS)]
    if not rows or not shape:
        return {}
    try:
        found = detect(rows)
    except InputError:  # of columns that could be meant alike
        return dict(shape)
    columns = dict(found.columns) | dict(shape["mapping"])
    return {} if (found.name, found.columns) == (shape["format"], columns) else dict(shape)


def _leave_out(out: Path, rows: Dataset, left_out: Mapping[int, str], progress: Progress) -> None:
    if not left_out:
        return
    with replacing(out / LEFT_OUT) as part, part.open("w", encoding="utf-8") as file:
        for at, reason in sorted(left_out.items()):
            file.write(json.dumps({"id": rows.ids[at], "reason": reason}, ensure_ascii=False) + "\n")
    why = "; ".join(f"{count:,}: {reason}" for reason, count in Counter(left_out.values()).most_common(3))
    progress.say(
        f"{len(left_out):,} of {len(rows):,} rows cannot be trained on and are left out for every strategy "
        f"({why}); {LEFT_OUT} names them."
    )


def _measure_on(out: Path, rows: Dataset, share: str, progress: Progress) -> None:
    with progress.stage("setting rows aside"):
        parts = set_aside(rows, float(Budget.parse(share).amount))
    rows.write(out / HELDOUT, parts.heldout)
    rows.write(out / POOL, parts.pool)
    progress.say(
        f"Set {len(parts.heldout):,} rows aside for held-out loss, and left out {len(parts.repeats):,} "
        f"that repeat their prompts; {len(parts.pool):,} rows remain."
    )


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
