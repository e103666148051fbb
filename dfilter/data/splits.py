"""Splits of a data set by the names of its files, as the Hugging Face hub tells them.

A file belongs to a split when its name, or else a folder it lies in, has one of the words train, training;
validation, valid, val, dev; test, testing, eval, evaluation between ``- . _`` blanks and digits. What
follows the word belongs to the split's name: train_sft and train_gen are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from dfilter.errors import InputError, UnknownNameError

TRAIN = "train"
_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}\Z")
_BETWEEN = re.compile(r"[-._\s\d]+")


def split_of(name: str) -> str:
    """Return the split that a file's name tells, "" when it tells none."""
    path = PurePosixPath(name)
    stem = _SHARD.sub("", path.name.split(".")[0])
    for text in (stem, *reversed(path.parent.parts)):
        words = [word for word in _BETWEEN.split(text.lower()) if word]
        for at, word in enumerate(words):
            if word in _WORDS:
                return "_".join([_WORDS[word], *words[at + 1 :]])
    return ""


def by_split(names: Iterable[str]) -> dict[str, list[str]]:
    """Return files by the split that their names tell."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(split_of(name), []).append(name)
    return found


def one_of(
    source: str, found: Mapping[str, list[str]], wanted: str = "", unit: str = "file"
) -> tuple[list[str], str]:
    """Return the files of one split, and a sentence about what is left; "" when nothing is or one was named.

    Args:
        source: what the data set is called in sentences.
        found: its files by split. Where files name no split they are the training split, unless others
            are called train.
        wanted: the split to take; the training split when "".
        unit: what the files are called.

    Raises:
        InputError: several splits could be meant, or the wanted one is not there.
    """
    if wanted == TRAIN and TRAIN not in found and "" in found:
        wanted, found = "", {"": found[""]}
    if wanted and wanted not in found:
        known = [split for split in sorted(found) if split]
        raise InputError(f"{source}: {UnknownNameError('split', wanted, known)}")
    if wanted:
        return found[wanted], ""
    if len(found) <= 1:
        return [name for names in found.values() for name in names], ""
    counts = {split: f"{len(names):,} {unit}{'s' * (len(names) != 1)}" for split, names in found.items()}
    told = ", ".join(f"{split or 'without a name'} ({counts[split]})" for split in sorted(found))
    chosen = _meant(found)
    if chosen is None:
        first = min(split for split in found if split)
        raise InputError(
            f"{source} holds several splits: {told}. Choose one, for instance --split {first}, or name its "
            "files."
        )
    read = chosen or "what has no name"
    return found[chosen], f"{source} holds several splits: {told}; {read} is read. --split reads another."


def _meant(found: Iterable[str]) -> str | None:
    trains = [split for split in found if split.split("_")[0] == TRAIN]
    if TRAIN in trains:
        return TRAIN
    if len(trains) == 1:
        return trains[0]
    return "" if not trains and "" in found else None
