from __future__ import annotations

import json
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from dfilter.data import hub, open_dataset
from dfilter.data.hub import Address, address_of, choose
from dfilter.errors import InputError


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("tatsu-lab/alpaca", Address("tatsu-lab/alpaca")),
        ("hf://datasets/GAIR/lima", Address("GAIR/lima")),
        ("hf://datasets/GAIR/lima/", Address("GAIR/lima")),
        ("hf://datasets/GAIR/lima@v1/data/*.jsonl", Address("GAIR/lima", "v1", "data/*.jsonl")),
        ("data/alpaca.json", None),
        ("./tatsu-lab/alpaca", None),
        ("/data/rows", None),
        ("data/*.jsonl", None),
        ("rows.jsonl", None),
        ("a/b/c", None),
    ],
)
def test_what_counts_as_an_address(source, address):
    assert address_of(source) == address


def test_a_folder_of_that_name_wins(tmp_path, monkeypatch):
    (tmp_path / "tatsu-lab" / "alpaca").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert address_of("tatsu-lab/alpaca") is None


def test_an_address_of_another_form_is_refused():
    with pytest.raises(InputError, match="expected hf://datasets/ORG/NAME"):
        address_of("hf://models/x")


NAMES = [
    "README.md",
    "data/test-0.parquet",
    "data/train-1.parquet",
    "data/train-0.parquet",
    "dataset_infos.json",
]


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (NAMES, "", ["data/train-0.parquet", "data/train-1.parquet"]),
        (NAMES, "data", ["data/train-0.parquet", "data/train-1.parquet"]),
        (NAMES, "data/test*", ["data/test-0.parquet"]),
        (["b.jsonl", "a.jsonl", "constrain.jsonl"], "", ["a.jsonl", "b.jsonl", "constrain.jsonl"]),
    ],
)
def test_the_training_split_is_chosen_unless_files_are_named(names, files, expected):
    assert choose(names, Address("x/y", files=files))[0] == expected


def test_no_files_of_rows_is_one_sentence():
    with pytest.raises(InputError, match="holds no files of rows that match data"):
        choose(["README.md", "weights.bin"], Address("x/y", files="data"))


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub that holds one repository, without a network."""
    folder = tmp_path / "snapshot"
    (folder / "data").mkdir(parents=True)
    row = {"prompt": "Q", "response": "A"}
    (folder / "data" / "train.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "data" / "test.jsonl").write_text(json.dumps(row | {"response": "B"}) + "\n")
    asked = []

    class Api:
        def dataset_info(self, repo, revision=None, timeout=None):
            asked.append((repo, revision, timeout))
            if repo == "gone/gone":
                response = SimpleNamespace(headers={}, request=None, status_code=404)
                raise RepositoryNotFoundError("404", response=response)
            if repo == "down/down":
                raise OSError("no route")
            files = [
                SimpleNamespace(rfilename=n) for n in ("README.md", "data/train.jsonl", "data/test.jsonl")
            ]
            return SimpleNamespace(sha="c0ffee", siblings=files)

    def download(repo, **options):
        asked.append((repo, options["revision"], options.get("allow_patterns")))
        if options.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("absent")
        return str(folder)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_hub_id_is_fetched_at_the_commit_that_was_listed(online, tmp_path):
    rows = open_dataset("some/rows", cache=tmp_path / "cache")
    assert [row.response for row in rows] == ["A"]
    wanted = ["data/train.jsonl", "README.md"]
    assert online == [("some/rows", None, hub.HUB_SECONDS), ("some/rows", "c0ffee", wanted)]
    assert rows.source.path == "some/rows"
    named = open_dataset("hf://datasets/some/rows@v2/data/test.jsonl", cache=tmp_path / "cache")
    assert [row.response for row in named] == ["B"]
    assert online[2][1] == "v2"


def test_a_dataset_that_the_hub_does_not_know_is_one_sentence(online, tmp_path):
    with pytest.raises(InputError, match="the hub knows no dataset of this name"):
        open_dataset("gone/gone", cache=tmp_path / "cache")


def test_an_unreachable_hub_falls_back_to_its_cache_and_then_says_so(online, tmp_path):
    with pytest.raises(InputError, match="not in the Hugging Face cache"):
        open_dataset("down/down", cache=tmp_path / "cache")


@pytest.mark.serial
def test_offline_fails_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("The hub was asked."))
    start = time.monotonic()
    with pytest.raises(InputError, match="not in the Hugging Face cache"):
        open_dataset("some/rows-that-nobody-has", cache=tmp_path / "cache")
    assert time.monotonic() - start < 2
