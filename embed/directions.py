"""What a target asks for: the mean direction of its rows' gradients, one for each subtask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dfilter.embed.checkpoints import Checkpoint
from dfilter.embed.gradients import stream
from dfilter.embed.sinks import Means, Norms
from dfilter.errors import DamagedError, InputError, OtherFormatError, StoreError
from dfilter.store.arrays import read_arrays, write_arrays
from dfilter.store.disk import write_json
from dfilter.types import Example, Json, Message

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from dfilter.embed.adapters import Adapted
    from dfilter.pool import Pool

# The tensors are large and can be made again from the rest: no part of the sealed fit, but a file that is
# verified by itself.
TENSORS, ABOUT, ROWS = ".directions.arrays", "directions.json", "rows.json"


@dataclass(frozen=True)
class Directions:
    """The mean of the target rows' normalised raw gradients, for each subtask; a fit on the target.

    The mean over a subtask of a row's cosines to its gradients, which is LESS's score, is the row's
    inner product with this mean, divided by the row's length. So the target shrinks to one vector a
    subtask. Its gradients stay raw, as in LESS, where only the pool's take Adam's form.

    Attributes:
        checkpoint: whose gradients.
        target_by: the target's column that names subtasks; empty makes the whole target one.
        members: a hash of which rows make up which subtask.
    """

    checkpoint: Checkpoint
    target_by: str = ""
    members: str = ""

    kind: ClassVar[str] = "directions"
    # 1 read beyond the model's window; 2 wrote a text's beginning as text; 3 took an input of blanks for none
    version: ClassVar[int] = 6

    def spec(self) -> Mapping[str, Json]:
        """The checkpoint's, and which rows make up which subtask."""
        return {"checkpoint": self.checkpoint.spec(), "members": self.members}

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:
        """Write (subtasks, size) float32 for every part of the adapter, what they are, and the rows.

        Raises:
            InputError: a subtask has no row with a usable gradient.
        """
        del longer  # a target has no prefix that would be a target
        names, subtask = subtasks(pool, self.target_by)
        rows = list(pool.rows)
        with pool.progress.stage("target gradients", total=len(rows)) as bar:
            sizes = _write(self.checkpoint, rows, subtask, names, folder)
            bar.advance(len(rows))
        kept = [
            {
                "messages": [[m.role, m.content, m.trained] for m in row.messages],
                "tools": row.tools,
                "context": row.context,
                "subtask": group,
            }
            for row, group in zip(rows, subtask.tolist(), strict=True)
        ]
        (folder / ROWS).write_text(json.dumps(kept), encoding="utf-8")
        about = {
            "checkpoint": dict(self.checkpoint.spec()),
            "members": self.members,
            "subtasks": names,
            "rows": sizes.tolist(),
            "left_out": len(rows) - int(sizes.sum()),
        }
        write_json(folder / ABOUT, about)


def _write(
    checkpoint: Checkpoint,
    rows: Sequence[Example],
    subtask: NDArray[np.int64],
    names: Sequence[str],
    folder: Path,
) -> NDArray[np.int64]:
    """Write the directions and return the usable rows of each subtask, (s,).

    Two passes: the first finds every row's length, the second adds up the scaled gradients, so that
    no row's gradient is ever held whole.
    """
    adapted = checkpoint.load()
    encoded, usable = checkpoint.encode(rows)
    norms = Norms(len(encoded), adapted.placement.device)
    stream(adapted, encoded, norms)
    good = np.isfinite(norms.values) & (norms.values > 0)
    groups = subtask[usable][good]
    sizes = np.bincount(groups, minlength=len(names))
    _refuse_empty(names, sizes)
    means = Means(adapted, groups, 1 / (norms.values[good] * sizes[groups]), len(names))
    stream(adapted, [encoded[at] for at in np.flatnonzero(good).tolist()], means)
    tensors = {part.name: held.cpu().numpy() for part, held in zip(adapted.parts, means.sums, strict=True)}
    write_arrays(folder / TENSORS, tensors, _of(folder))
    return sizes


def _of(folder: Path) -> dict[str, str]:
    """Return what the tensors' file says that it belongs to."""
    return {"fit": folder.parent.name}


def forget(folder: Path) -> None:
    """Remove the large part of finished directions; whoever needs it again has it made from the rows."""
    (folder / TENSORS).unlink(missing_ok=True)


def _remake(folder: Path, checkpoint: Checkpoint) -> None:
    kept = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    rows = [
        Example(str(at), tuple(Message(*said) for said in row["messages"]), {}, row["context"], row["tools"])
        for at, row in enumerate(kept)
    ]
    subtask = np.array([row["subtask"] for row in kept], dtype=np.int64)
    names: Any = about(folder)["subtasks"]
    _write(checkpoint, rows, subtask, names, folder)


def subtasks(pool: Pool, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the target's subtasks, sorted, and every row's, (n,).

    Raises:
        InputError: the column is missing, or a row has no value in it.
    """
    if not column:
        return ["target"], np.zeros(len(pool.rows), dtype=np.int64)
    values = pool.rows.column(column)
    if any(value is None for value in values):
        raise InputError(
            f"The target's column '{column}' is missing in {sum(v is None for v in values)} of "
            f"{len(values)} rows. It has: {', '.join(pool.rows.columns) or 'none'}."
        )
    names = sorted({str(value) for value in values})
    places = {name: place for place, name in enumerate(names)}
    return names, np.array([places[str(value)] for value in values], dtype=np.int64)


def _refuse_empty(names: Sequence[str], sizes: NDArray[np.int64]) -> None:
    empty = [name for name, size in zip(names, sizes.tolist(), strict=True) if not size]
    if empty:
        raise InputError(
            f"No row of the target's subtask {', '.join(empty)} has a usable gradient: its responses lie "
            "beyond max_tokens, are empty, or overflow."
        )


def about(folder: Path) -> dict[str, Json]:
    """Return what stands beside the directions: checkpoint, subtasks, rows of each, rows left out."""
    found: dict[str, Json] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return found


def read_directions(folder: str, adapted: Adapted, checkpoint: Checkpoint) -> tuple[torch.Tensor, ...]:
    """Return (subtasks, size) for every part, on the model's device; read once per process.

    Raises:
        StoreError: they come from another model, adapter, tokenizer or setting.
    """
    if about(Path(folder))["checkpoint"] != dict(checkpoint.spec()):
        raise StoreError(
            f"The target's gradients in {folder} come from another model, adapter or setting than "
            f"{checkpoint.folder}; their products with its gradients would mean nothing."
        )
    wanted = folder, tuple(part.name for part in adapted.parts), adapted.placement.device
    try:
        return _read(*wanted)
    except (FileNotFoundError, DamagedError, OtherFormatError):
        _remake(Path(folder), checkpoint)
        return _read(*wanted)


@lru_cache(maxsize=1)
def _read(folder: str, names: tuple[str, ...], device: str) -> tuple[torch.Tensor, ...]:
    import torch

    held = read_arrays(Path(folder) / TENSORS, _of(Path(folder)))
    return tuple(torch.from_numpy(held[name].copy()).to(device) for name in names)
