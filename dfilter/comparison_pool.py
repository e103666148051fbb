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
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dfilter.data.dataset import Dataset
from dfilter.data.ingest import FIRST_ROWS
from dfilter.data.shapes import detect
from dfilter.data.write import replacing
from dfilter.digests import file_sha256
from dfilter.errors import InputError
from dfilter.pool import Pool
from dfilter.selector import Budget
from dfilter.store.seal import read_checked, write_checked
from dfilter.textmatch import set_aside
from dfilter.types import Progress, Screening

POOL, HELDOUT, LEFT_OUT, SPLIT = FILES = ("pool.jsonl", "heldout.jsonl", "left_out.jsonl", "split.json")


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
    out: Path, rows: Dataset, share: str, left_out: Mapping[int, str], of: str, progress: Progress
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
    """
    names = [POOL, *[HELDOUT] * bool(share), *[LEFT_OUT] * bool(left_out)]
    held = read_checked(out / SPLIT)
    if held is not None and held.get("of") == of and held.get("files") == _hashes(out, names):
        return str(out / POOL)
    if held is not None:
        progress.say(f"The held-out rows in {out} are not what was written; they are set aside again.")
    usable = rows.take(np.setdiff1d(np.arange(len(rows)), np.array([*left_out], dtype=np.int64)))
    _leave_out(out, rows, left_out, progress)
    if share:
        _measure_on(out, usable, share, progress)
    else:
        usable.write(out / POOL)
    told = {"left_out": dict(Counter(left_out.values()))} if left_out else {}
    write_checked(out / SPLIT, {"of": of, "files": _hashes(out, names), **told})
    return str(out / POOL)


def misleading(file: Path, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape of a file that was written of the data, where its own rows look like another one's.

    Versions that did not tell the reader trained and measured on what they looked like.
    """
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, FIRST_ROWS)]
    if not rows or not shape:
        return {}
    found = detect(rows)
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
