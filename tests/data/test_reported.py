"""What users of neighbouring projects reported of their data, each as a row or a folder of our own."""

# ruff: noqa: RUF001 - letters that look like others are the matter here

from __future__ import annotations

import decimal
import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfilter.data import load
from dfilter.data.dataset import Dataset
from dfilter.errors import InputError
from dfilter.segmentation import words
from dfilter.textmatch import contaminated
from dfilter.types import Example, Message

QA = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def asked(text):
    return Example("0", (Message("user", text), Message("assistant", "A")), {})


def turns(row):
    [read] = Dataset.from_rows([row], on_bad_rows="stop")
    return [(m.role, m.content) for m in read.messages]


def notes(*rows):
    return Dataset.from_rows(rows).source.notes


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(folder, **how):
    return [row.response for row in load(folder, **how)]


def pair(answer):
    return {"prompt": "Q", "answer": answer}


# Every script.


def test_blanks_between_chinese_characters_hide_no_contamination():
    """Blanks in Chinese are punctuation of a kind (github.com/explosion/spaCy/issues/8879)."""
    prompt = "请介绍一下长江三峡大坝的建造历史和它对航运的影响并举出两个例子"
    assert contaminated([prompt], [asked("你好 " + " ".join(prompt))]).all()


def test_chinese_is_not_one_word():
    """str.split() makes one word of a Chinese text (github.com/huggingface/open-r1/pull/324)."""
    assert len(words("这是一个没有空格的句子")) == 11


def test_chinese_is_counted_by_characters_without_punctuation():
    """Eight characters are eight units (github.com/lepture/word-count/pull/3)."""
    assert len(words("中文裏這，是八個字。")) == 8


def test_different_arabic_texts_are_not_one():
    """All of an Arabic corpus was called duplicates (github.com/ChenghaoMou/text-dedup/issues/90)."""
    rows = [
        asked(
            "اكتب رسالة قصيرة إلى مدير المدرسة تطلب فيها موعدا لمناقشة نتائج الامتحانات النهائية لهذا العام"
        ),
        asked("ما هي أفضل طريقة لتخزين البطاطس في فصل الشتاء حتى لا تفسد ولا تنبت قبل الربيع القادم"),
    ]
    assert contaminated([rows[0].prompt, rows[1].prompt], rows[:1]).tolist() == [True, False]


def test_thai_words_do_not_begin_with_a_vowel_sign():
    """Words were split before their vowel signs (github.com/typesense/typesense/issues/228)."""
    found = words("ความเหลื่อมล้ำทางสังคม")
    assert "".join(found) == unicodedata.normalize("NFKC", "ความเหลื่อมล้ำทางสังคม")
    assert not any(unicodedata.category(word[0]).startswith("M") for word in found)


def test_vowel_signs_of_indian_scripts_split_no_word():
    """Devanagari and Bengali words fell apart (github.com/halfak/deltas/pull/14)."""
    assert words("हिन्दी भाषा বাংলা ভাষা") == ["हिन्दी", "भाषा", "বাংলা", "ভাষা"]


def test_latin_words_within_chinese_stay_words():
    """Latin words were split into letters (github.com/yishn/chinese-tokenizer/issues/2)."""
    assert words("我用Python写代码") == ["我", "用", "python", "写", "代", "码"]


# What changes the meaning of a row.


def test_bad_answers_in_alpaca_columns_are_not_learnt():
    """All rows counted as desired (github.com/hiyouga/LlamaFactory/issues/3803)."""
    row = {"instruction": "Q", "output": "A"}
    read = Dataset.from_rows([row | {"kto_tag": tag} for tag in (True, False, "false", "True")])
    assert list(read.ids) == ["0", "3"]


def test_earlier_turns_of_alpaca_rows_are_read():
    """The history did not reach the training data (github.com/hiyouga/LlamaFactory/issues/4683)."""
    row = {"instruction": "Q2", "input": "", "output": "A2", "history": [["Q1", "A1"]]}
    assert [text for _, text in turns(row)] == ["Q1", "A1", "Q2", "A2"]


def test_a_mask_of_turns_is_named():
    """Which turns are learnt stands in a column (github.com/hiyouga/LlamaFactory/pull/9630)."""
    [note] = notes({"messages": QA, "loss_mask": [0, 1]})
    assert note == "the column 'loss_mask' (what is to be learnt) is not read: 1 row"


def test_an_empty_picture_is_none():
    """An empty image column came back as a picture (github.com/modelscope/ms-swift/issues/4535)."""
    assert not notes({"messages": QA, "image": "", "images": []})
    [note] = notes({"messages": QA, "images": ["a.png"]})
    assert "'images' (pictures, films or sound) is not read: 1 row" in note


def test_definitions_of_tools_are_named_or_read():
    """What the column 'tools' is for was unclear (github.com/hiyouga/LlamaFactory/issues/5866)."""
    row = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "tools": "[]"}
    assert turns(row) == [("user", "Q"), ("assistant", "A")]
    assert all("'tools'" in note for note in notes(row))


def test_the_answer_that_was_chosen_ends_its_conversation():
    """Prompt and pair in three columns of one sharegpt row (github.com/hiyouga/LlamaFactory/issues/5911)."""
    row = {
        "conversations": [{"from": "human", "value": "Q1"}, {"from": "gpt", "value": "A1"},
                          {"from": "human", "value": "Q2"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    }  # fmt: skip
    assert [text for _, text in turns(row)] == ["Q1", "A1", "Q2", "good"]


def test_a_prompt_stands_once_before_its_whole_dialogue():
    """Prompt and completion, and which is which (github.com/huggingface/trl/issues/4110)."""
    assert turns({"prompt": "Q", "completion": QA}) == [("user", "Q"), ("assistant", "A")]
    assert turns({"prompt": QA[:1], "completion": QA}) == [("user", "Q"), ("assistant", "A")]


# Splits.


def test_a_split_of_several_paths(tmp_path):
    """Lists of paths were not found (github.com/huggingface/datasets/issues/6443)."""
    for name in ("data/abc", "data/def", "holdout/ghi"):
        lines(tmp_path / "d" / f"{name}.jsonl", pair(name))
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path:\n"
        "    - data/abc.jsonl\n    - data/def.jsonl\n  - split: test\n    path: holdout/ghi.jsonl\n---\n"
    )
    assert answers(tmp_path / "d") == ["data/abc", "data/def"]
    assert answers(tmp_path / "d", split="test") == ["holdout/ghi"]


def test_words_that_only_hold_the_name_of_a_split(tmp_path):
    """Files were taken for tests by a part of a word (github.com/huggingface/datasets/issues/5721)."""
    for name in ("attestation", "contest", "valley", "trainer"):
        lines(tmp_path / "d" / f"{name}.jsonl", pair(name))
    assert answers(tmp_path / "d") == ["attestation", "contest", "trainer", "valley"]


def test_folders_tell_the_split_of_files_of_one_name(tmp_path):
    """A folder 'validation' was no split (github.com/huggingface/datasets/issues/4895)."""
    for split in ("train", "test", "validation"):
        lines(tmp_path / "d" / split / "metadata.jsonl", pair(split))
    assert answers(tmp_path / "d") == ["train"]
    assert answers(tmp_path / "d", split="validation") == ["validation"]


def test_an_only_split_of_another_name_is_read(tmp_path):
    """The only split is called all_examples (github.com/huggingface/datasets/issues/7394)."""
    for name in ("expert", "easy"):
        lines(tmp_path / "d" / "tasks" / f"{name}.jsonl", pair(name))
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- config_name: Expert\n  data_files:\n"
        "  - {split: all_examples, path: tasks/expert.jsonl}\n---\n"
    )
    assert answers(tmp_path / "d") == ["expert"]
    with pytest.raises(InputError, match="all_examples"):
        answers(tmp_path / "d", split="train")


def test_a_folder_per_config(tmp_path):
    """data_dir in the front matter (github.com/huggingface/datasets/issues/6561)."""
    for name in ("one", "two"):
        lines(tmp_path / "d" / name / "train.jsonl", pair(name))
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- {config_name: a, data_dir: one}\n- {config_name: b, data_dir: ./two/}\n---\n"
    )
    assert answers(tmp_path / "d", config="b") == ["two"]


def test_two_folders_with_a_training_split_each(tmp_path):
    """Of two folders one was asked for (github.com/huggingface/datasets/issues/6918)."""
    for name in ("data1", "data2"):
        lines(tmp_path / "d" / name / "train.jsonl", pair(name))
    assert answers(tmp_path / "d" / "data1") == ["data1"]
    assert answers(tmp_path / "d") == ["data1", "data2"]


def test_several_configs_are_named_before_one_is_taken(tmp_path):
    """The first config was taken without a word (github.com/huggingface/datasets/pull/203)."""
    lines(tmp_path / "d" / "a.jsonl", pair("a"))
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- {config_name: cola, data_files: a.jsonl}\n"
        "- {config_name: sst2, data_files: a.jsonl}\n---\n"
    )
    with pytest.raises(
        InputError, match=r"several configs: cola, sst2\. Choose one, for instance --config cola"
    ):
        answers(tmp_path / "d")


# Every door.


def test_a_sequence_of_turns_that_was_turned_into_columns():
    """A sequence of dicts is stored as a dict of lists (github.com/huggingface/datasets/issues/888)."""
    table = pa.table({"messages": pa.array([{"role": ["user", "assistant"], "content": ["Q", "A"]}])})
    assert [m.content for m in load(table)[0].messages] == ["Q", "A"]


def test_a_column_of_nulls_in_the_first_shard(tmp_path):
    """Text after a shard of nulls could not be read (github.com/huggingface/datasets/issues/7222)."""
    (tmp_path / "d").mkdir()
    for name, system in (("a", None), ("b", "S")):
        pq.write_table(
            pa.Table.from_pylist([pair(name) | {"system": system}]), tmp_path / "d" / f"{name}.parquet"
        )
    rows = load(tmp_path / "d")
    assert [[m.role for m in row.messages] for row in rows] == [
        ["user", "assistant"],
        ["system", "user", "assistant"],
    ]


def test_decimals_of_other_precision_in_each_shard(tmp_path):
    """DECIMAL(7,5) beside DECIMAL(8,5) failed (github.com/huggingface/dataset-viewer/issues/3173)."""
    (tmp_path / "d").mkdir()
    for name, text, digits in (("a", "6.47135", 7), ("b", "166.47135", 8)):
        seconds = pa.array([decimal.Decimal(text)], pa.decimal128(digits, 5))
        pq.write_table(
            pa.table({**{k: [v] for k, v in pair(name).items()}, "s": seconds}),
            tmp_path / "d" / f"{name}.parquet",
        )
    rows = load(tmp_path / "d")
    assert rows.column("s") == ["6.47135", "166.47135"]


def test_ids_of_other_width_in_each_shard(tmp_path):
    """INTEGER beside BIGINT was refused (github.com/duckdb/duckdb/issues/1214)."""
    (tmp_path / "d").mkdir()
    for name, number, kind in (("a", 7, pa.int32()), ("b", 2**40, pa.int64()), ("c", "x", pa.string())):
        pq.write_table(
            pa.table({**{k: [v] for k, v in pair(name).items()}, "id": pa.array([number], kind)}),
            tmp_path / "d" / f"{name}.parquet",
        )
    assert list(load(tmp_path / "d").ids) == ["7", str(2**40), "x"]


def test_whole_numbers_with_gaps_are_whole(tmp_path):
    """Numbers beside a null became 3.0 (github.com/pandas-dev/pandas/issues/48704)."""
    rows = [pair("a") | {"id": None}, pair("b") | {"id": 3}, pair("c") | {"id": 1}]
    table = pa.table({name: [row[name] for row in rows] for name in ("prompt", "answer")})
    floats = table.append_column("id", pa.array([None, 3.0, 1.0]))
    assert list(load(floats).ids) == list(load(rows).ids) == ["0", "3", "1"]


def test_a_stand_in_is_no_other_rows_number():
    """The same, where the number of the row without an id is another row's id."""
    rows = [pair("a") | {"id": 1}, pair("b") | {"id": None}, pair("c") | {"id": "1#row"}]
    assert list(load(rows).ids) == ["1", "1#row#row", "1#row"]


def test_a_table_that_was_written_by_columns_says_so(tmp_path):
    """Rows numbered in an object (github.com/hiyouga/LlamaFactory/issues/2571)."""
    turned = {"conversations": {"0": [{"from": "human", "value": "Q"}]}, "id": {"0": "alfworld_0"}}
    (tmp_path / "rows.json").write_text(json.dumps(turned))
    with pytest.raises(InputError, match="an object of numbered rows"):
        load(tmp_path / "rows.json")


def test_an_unknown_speaker_is_named():
    """'hummany' was reported as no role at all (github.com/hiyouga/LlamaFactory/issues/2381)."""
    said = [{"from": "hummany", "value": "Q"}, {"from": "gpt", "value": "A"}]
    with pytest.raises(InputError, match="turn 1 has the role 'hummany', expected one of"):
        turns({"conversations": said})


@pytest.mark.parametrize("door", ["list", "table", "text"])
def test_a_part_that_only_some_turns_have(door):
    """Structs with other keys in later files failed (github.com/huggingface/datasets/issues/5596)."""
    said = [[*QA, QA[0] | {"name": "n"}], QA]
    rows = [{"messages": json.dumps(one) if door == "text" else one} for one in said]
    read = load(pa.Table.from_pylist(rows) if door == "table" else rows)
    assert [len(row.messages) for row in read] == [3, 2]
    assert read.source.notes == ["parts of turns that are kept and not read: name"]


def test_an_array_behind_an_object_is_the_data(tmp_path):
    """Rows in a field of the file (github.com/huggingface/datasets/pull/372)."""
    wrapped = {
        "info": {"by": "x{", "n": 2},
        "tags": ["a"],
        "note": 'say "hi"',
        "data": [pair("a"), pair("b")],
    }
    for indent in (None, 1):
        (tmp_path / "rows.json").write_text(json.dumps(wrapped, indent=indent))
        assert answers(tmp_path / "rows.json") == ["a", "b"]


def test_lines_that_hold_arrays_are_no_array(tmp_path):
    """to_json writes lines under this name, too (github.com/huggingface/datasets/issues/6891)."""
    lines(tmp_path / "rows.json", *(pair(name) | {"examples": [{"q": 1}], "more": 1} for name in "ab"))
    assert answers(tmp_path / "rows.json") == ["a", "b"]


def test_what_follows_the_array_of_an_object_is_named(tmp_path):
    """Splits in one file, as SQuAD-like sets and {"train": [...], "test": [...]} have them."""
    path = tmp_path / "rows.json"
    whole = {"train": [pair("a")], "n": 2, "by": "x}", "test": [pair("b"), {"d": "]}"}], "info": {"v": [1]}}
    for indent in (None, 1):
        path.write_text(json.dumps(whole, indent=indent))
        assert answers(path) == ["a"]
        assert load(path).source.notes == ["rows.json holds several parts: train, test, info; train is read"]
    path.write_text(json.dumps({"data": [pair("a")], "n": None, "more": ""}))
    assert not load(path).source.notes


@pytest.mark.parametrize("end", ["", ",", ', "test"', ', "test": [{"a": 1}', ', "n": 1', ', "n": "x'])
def test_an_object_that_is_cut_off_behind_its_array_is_half_an_input(end, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(f'{{"data": [{json.dumps(pair("a"))}]{end}')
    with pytest.raises(InputError, match="the object around its array is not closed"):
        load(path)
    assert len(load(path, on_bad_rows="keep-going")) == 1


@pytest.mark.parametrize("end", ["} more", "]", "}{}"])
def test_what_is_no_member_behind_an_array_is_rejected(end, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(f'{{"data": [{json.dumps(pair("a"))}]{end}')
    [bad] = load(path).rejected
    assert bad.reason == "something follows the end of the array"
