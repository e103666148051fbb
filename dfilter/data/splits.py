"""Splits of a data set by the names of its files, as the Hugging Face hub tells them.

A file belongs to a split when its name, or else a folder it lies in, has one of the words train, training;
validation, valid, val, dev; test, testing, eval, evaluation between ``- . _`` blanks and digits. What
follows the word belongs to the split's name: train_sft and train_gen are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from dfilter.errors import InputError

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


def one_split(source: str, names: Sequence[str]) -> tuple[list[str], str]:
    """Return the files of the training split, and a sentence about what is left; "" when nothing is.

    Where files name no split they are the training split, unless others are called train.

    Raises:
        InputError: several splits could be meant.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(split_of(name), []).append(name)
    if len(found) <= 1:
        return list(names), ""
    told = ", ".join(f"{split or 'without a name'} ({_files(found[split])})" for split in sorted(found))
    chosen = _meant(found)
    if chosen is None:
        first = found[min(split for split in found if split)][0]
        raise InputError(
            f"{source} holds several splits: {told}. Name the files of one, for instance "
            f"{source}/{_SHARD.sub('-*', first.split('.')[0])}*."
        )
    read = chosen or "what has no name"
    return found[chosen], f"{source} holds several splits: {told}; {read} is read. Name files to read others."


def _meant(found: Iterable[str]) -> str | None:
    trains = [split for split in found if split.split("_")[0] == TRAIN]
    if TRAIN in trains:
        return TRAIN
    if len(trains) == 1:
        return trains[0]
    return "" if not trains and "" in found else None


def _files(names: Sequence[str]) -> str:
    return f"{len(names):,} file" + "s" * (len(names) != 1)
