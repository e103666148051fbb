"""Which files of a folder or a repository are read: one split, and the others are named."""

from __future__ import annotations

import json

import pytest

from dfilter.data import open_dataset
from dfilter.data.hub import Address, choose
from dfilter.data.splits import by_split, one_of, split_of
from dfilter.errors import InputError

NAMES = {
    "train.jsonl": "train",
    "data/train-00000-of-00003.parquet": "train",
    "data/train_sft-00000-of-00003.parquet": "train_sft",
    "data/test_gen-00000-of-00003.parquet": "test_gen",
    "train_1.jsonl.gz": "train",
    "alpaca-train.jsonl": "train",
    "Training/part-00001.jsonl": "train",
    "data/data-00000-of-00010.parquet": "",
    "dev.jsonl": "validation",
    "x/valid/0.jsonl": "validation",
    "alpaca_eval.json": "test",
    "mytest.jsonl": "",
    "constrain.jsonl": "",
    "validated.jsonl": "",
    "contest/a.jsonl": "",
    "test/train.jsonl": "train",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_split_is_told_by_whole_words(name):
    assert split_of(name) == NAMES[name]


@pytest.mark.parametrize(
    ("names", "read", "left"),
    [
        (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"], ""),
        (["test-0.jsonl", "test-1.jsonl"], ["test-0.jsonl", "test-1.jsonl"], ""),
        (["dev.jsonl", "train.jsonl"], ["train.jsonl"], "train (1 file), validation (1 file); train is read"),
        (["heldout.jsonl", "train.jsonl"], ["train.jsonl"], "without a name (1 file)"),
        (["a.jsonl", "b.jsonl", "test.jsonl"], ["a.jsonl", "b.jsonl"], "what has no name is read"),
        (["test_sft-0.jsonl", "train_sft-0.jsonl"], ["train_sft-0.jsonl"], "train_sft is read"),
        (["train.jsonl", "train_extra.jsonl"], ["train.jsonl"], "train_extra (1 file)"),
        (["alpaca_train.jsonl", "dolly_train.jsonl"], ["alpaca_train.jsonl", "dolly_train.jsonl"], ""),
    ],
)
def test_the_training_split_is_read_and_the_others_are_named(names, read, left):
    found, sentence = one_of("D", by_split(names))
    assert found == read
    assert left in sentence
    assert bool(left) == bool(sentence)
    assert choose(names, Address("x/y"))[0] == read


def test_what_has_no_name_is_the_training_split_by_name_too():
    assert one_of("D", by_split(["a.jsonl", "test.jsonl"]), "train") == (["a.jsonl"], "")
    assert one_of("D", by_split(["a.jsonl"]), "train")[0] == ["a.jsonl"]
    with pytest.raises(InputError, match="Known: test"):
        one_of("D", by_split(["test.jsonl"]), "train")


@pytest.mark.parametrize(
    "names", [["train_gen-0.parquet", "train_sft-0.parquet"], ["dev.jsonl", "test.jsonl"]]
)
def test_several_that_could_be_meant_are_asked_about(names):
    with pytest.raises(
        InputError, match=r"several splits: .*\. Choose one, for instance --split \w+, or name its"
    ):
        one_of("D", by_split(names))


def test_a_folder_and_its_parts(tmp_path):
    folder, cache = tmp_path / "clone", tmp_path / "cache"
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        rows = [{"prompt": f"Q{n}", "answer": split} for n in range(count)]
        path = folder / "data" / f"{split}-00000-of-00001.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        found = open_dataset(folder, cache=cache)
        assert [row.response for row in found] == ["train"] * 3
        assert "test (1 file), train (1 file), validation (1 file); train is read" in found.source.notes[0]
    assert len(open_dataset(folder / "data" / "test*", cache=cache)) == 2
    alone = open_dataset(folder / "data" / "train-00000-of-00001.jsonl", cache=cache)
    assert not alone.source.notes
    assert len(open_dataset(str(folder / "**" / "*.jsonl"), cache=cache)) == 6
