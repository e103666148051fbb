"""README.md of a hub folder says which files belong to which split, by whatever door the folder comes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import DatasetCardData, constants

import dfilter
from dfilter.data import load
from dfilter.data.cards import card_of, choose, configs_in
from dfilter.errors import InputError

TWO = """---
license: mit
configs:
- config_name: main
  data_files:
  - {split: train, path: main/t-*.jsonl}
  - {split: test, path: [main/rest/a.jsonl, "main/rest/b*"]}
- config_name: hard
  data_dir: hard
---
# Two configs
"""
FILES = ["main/t-0.jsonl", "main/t-1.jsonl", "main/deep/t-2.jsonl", "main/rest/a.jsonl", "main/rest/b.jsonl",
         "hard/train.jsonl", "hard/dev.jsonl", "loose.jsonl"]  # fmt: skip


def folder_of(place, card, files=FILES):
    for name in files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompt": "Q", "answer": name}) + "\n")
    (place / "README.md").write_text(card)
    return place


def by_path(folder, monkeypatch):
    return folder


def by_cached_id(folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    return "some/rows"


def by_id(folder, monkeypatch):
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    data = DatasetCardData(**yaml.safe_load((folder / "README.md").read_text().split("---")[1]))
    info = SimpleNamespace(
        sha="c0ffee", siblings=[SimpleNamespace(rfilename=n) for n in names], card_data=data
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(dataset_info=lambda *_, **__: info))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    return "some/rows"


@pytest.mark.parametrize("door", [by_path, by_cached_id, by_id])
@pytest.mark.parametrize(
    ("wish", "read"),
    [
        ({"config": "main"}, ["main/t-0.jsonl", "main/t-1.jsonl"]),
        ({"config": "main", "split": "test"}, ["main/rest/a.jsonl", "main/rest/b.jsonl"]),
        ({"config": "hard"}, ["hard/train.jsonl"]),
        ({"config": "hard", "split": "validation"}, ["hard/dev.jsonl"]),
        ({}, "holds several configs: main, hard. Choose one, for instance --config main"),
        ({"config": "mian"}, "Did you mean 'main'"),
        ({"config": "main", "split": "dev"}, "'dev'"),
    ],
)
def test_the_card_decides_by_every_door(door, wish, read, tmp_path, monkeypatch):
    source = door(folder_of(tmp_path / "clone", TWO), monkeypatch)
    if isinstance(read, str):
        with pytest.raises(InputError) as caught:
            load(source, **wish, cache=tmp_path / "cache")
        assert read in str(caught.value)
        return
    found = load(source, **wish, cache=tmp_path / "cache")
    assert [row.response for row in found] == read
    [note] = found.source.notes
    assert note.endswith("2 files of rows that README.md does not name are not read.")
    assert ("holds several splits" in note) == (len(wish) == 1)
    assert len(dfilter.select(source, strategy="full", **wish)) == len(read)


@pytest.mark.parametrize(
    ("data_files", "read"),
    [
        ('"*.jsonl"', ["loose.jsonl"]),
        ('["loose.jsonl", "hard/*"]', ["hard/dev.jsonl", "hard/train.jsonl", "loose.jsonl"]),
        ('"**/a.jsonl"', ["main/rest/a.jsonl"]),
        ('"./main/**"', sorted(f for f in FILES if f.startswith("main/"))),
        ('"main/t-[01].jsonl"', ["main/t-0.jsonl", "main/t-1.jsonl"]),
        ("{train: loose.jsonl, test: hard/dev.jsonl}", ["loose.jsonl"]),
        ('[{split: test, path: "hard/*"}]', ["hard/dev.jsonl", "hard/train.jsonl"]),
        ('[{split: train_sft, path: hard/dev.jsonl}, {split: test, path: "**"}]', ["hard/dev.jsonl"]),
    ],
)
def test_paths_of_a_card_are_read_as_the_hub_reads_them(data_files, read, tmp_path):
    configs = configs_in({"configs": [{"data_files": yaml.safe_load(data_files)}]})
    assert choose("D", sorted(FILES), configs)[0] == read


@pytest.mark.parametrize(
    ("entries", "meant"),
    [
        ([{"config_name": "one"}], "one"),
        ([{"config_name": "one"}, {"config_name": "default"}], "default"),
        ([{"config_name": "one"}, {"config_name": "two", "default": True}], "two"),
    ],
)
def test_the_default_config_is_taken_and_the_others_are_named(entries, meant):
    configs = configs_in({"configs": entries})
    assert next(c.name for c in configs if c.default) == meant
    assert (f"; {meant} is read. --config" in choose("D", ["a.jsonl"], configs)[1]) == (len(entries) > 1)


def test_files_that_a_card_names_and_that_are_absent_are_told(tmp_path):
    folder = folder_of(tmp_path / "d", "---\nconfigs:\n- {config_name: x, data_files: 'far/*'}\n---\n")
    with pytest.raises(InputError, match=r"'x' of .* names files that are not there \(far/\*\)"):
        load(folder, cache=tmp_path / "cache")


def test_a_card_that_is_no_yaml_is_told_and_names_decide(tmp_path):
    folder = folder_of(tmp_path / "d", "---\nconfigs: [\n---\n", ["train.jsonl", "test.jsonl"])
    found = load(folder, cache=tmp_path / "cache")
    assert [row.response for row in found] == ["train.jsonl"]
    assert "the front matter of README.md cannot be read" in found.source.notes[0]


@pytest.mark.parametrize(
    "text", ["", "# Plain", "---\nlicense: mit\n---\n", "---\n- 1\n---\n", "---\nconfigs: 3\n---\n"]
)
def test_a_card_without_configs_says_nothing(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert card_of(tmp_path) == ([], "")


def test_options_for_folders_are_refused_elsewhere(tmp_path):
    folder = folder_of(tmp_path / "d", "", ["train.jsonl"])
    with pytest.raises(InputError, match="choose files of a folder or a hub id"):
        load(folder / "train.jsonl", split="train", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="names no configs"):
        load(folder, config="main", cache=tmp_path / "cache")


def test_tables_by_split_are_read_as_a_folder_is():
    tables = {name: pa.table({"prompt": ["Q"], "answer": [name]}) for name in ("train", "test")}
    assert [row.response for row in load(tables)] == ["train"]
    assert (
        "holds several splits: test (1 table), train (1 table); train is read" in load(tables).source.notes[0]
    )
    assert [row.response for row in load(tables, split="test")] == ["test"]
    with pytest.raises(InputError, match="Choose one, for instance --split dev"):
        load({"dev": tables["train"], "test": tables["test"]})
    with pytest.raises(InputError, match="One table of rows was expected"):
        load({"prompt": ["Q"], "answer": ["A"]})


def test_splits_are_told_apart_before_kinds(tmp_path):
    folder = folder_of(tmp_path / "d", "", ["train.jsonl"])
    (folder / "test.csv").write_text("prompt,answer\nQ,A\n")
    assert [row.response for row in load(folder, cache=tmp_path / "cache")] == ["train.jsonl"]
