from __future__ import annotations

import collections
import itertools
import json
import random
import re
import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import pytest

from dfilter.errors import InputError, SettingsError
from dfilter.sample import FAMILIES, RATES, SamplePool, faults_kept, generate, read_truth, write
from dfilter.sample.problem import STYLES, respond
from dfilter.sample.tables import CAPITALS, MONTHS, WEEKDAYS, in_words


@pytest.fixture(scope="module")
def sample() -> SamplePool:
    return generate(2000, seed=0)


def question(row: dict[str, str]) -> str:
    return f"{row['instruction']}\n{row['input']}".strip()


def with_fault(sample: SamplePool, fault: str) -> list[tuple[dict, dict]]:
    pairs = zip(sample.pool, sample.truth, strict=True)
    return [(row, told) for row, told in pairs if (fault in told["faults"] if fault else not told["faults"])]


def test_every_fault_is_planted_at_its_stated_rate(sample: SamplePool) -> None:
    counts = collections.Counter(fault for told in sample.truth for fault in told["faults"])
    assert counts == {fault: round(rate * 2000) for fault, rate in RATES.items()}
    assert max(len(told["faults"]) for told in sample.truth) == 1


def test_a_row_without_fault_says_what_the_truth_says_and_ends_with_the_answer(sample: SamplePool) -> None:
    for row, told in with_fault(sample, ""):
        assert row["output"] == told["output"]
        assert told["output"].rstrip(".").endswith(told["answer"].rstrip("."))


def test_held_out_rows_end_with_their_answer_and_share_no_question_with_the_pool(sample: SamplePool) -> None:
    asked = {question(row) for row in sample.pool}
    assert len(sample.heldout) == len({question(row) for row in sample.heldout}) == 20 * len(FAMILIES)
    for row in sample.heldout:
        assert question(row) not in asked
        assert row["output"].rstrip(".").endswith(row["answer"].rstrip("."))


def test_only_planted_duplicates_ask_the_same_question_twice(sample: SamplePool) -> None:
    first = [row for row, told in zip(sample.pool, sample.truth, strict=True) if not told["of"]]
    assert len({question(row) for row in first}) == len(first)


def test_duplicates_repeat_a_clean_row_and_near_duplicates_reword_one(sample: SamplePool) -> None:
    rows = {row["id"]: row for row in sample.pool}
    truth = {told["id"]: told for told in sample.truth}
    for row, told in with_fault(sample, "duplicate"):
        assert {**row, "id": ""} == {**rows[told["of"]], "id": ""}
        assert truth[told["of"]]["faults"] == []
    seen = set()
    for row, told in with_fault(sample, "near_duplicate"):
        assert question(row) != question(rows[told["of"]])
        assert row["output"] == rows[told["of"]]["output"]
        assert question(row) not in seen
        seen.add(question(row))


def test_swapped_responses_come_from_rows_of_other_families(sample: SamplePool) -> None:
    swapped = with_fault(sample, "swapped")
    said = collections.defaultdict(set)
    for _, told in swapped:
        said[told["output"]].add(told["family"])
    for row, told in swapped:
        assert row["output"] in said
        assert said[row["output"]] - {told["family"]}
    assert sorted(row["output"] for row, _ in swapped) == sorted(told["output"] for _, told in swapped)


def test_wrong_answers_are_not_the_right_one(sample: SamplePool) -> None:
    for row, told in with_fault(sample, "wrong"):
        assert row["output"] != told["output"]
        assert not row["output"].rstrip(".").endswith(f" {told['answer']}".rstrip("."))


def test_truncated_rows_break_off_before_the_answer(sample: SamplePool) -> None:
    for row, told in with_fault(sample, "truncated"):
        assert not re.search(rf"(?:answer is|gives|Answer:) {re.escape(told['answer'])}", row["output"])


def test_only_chatter_speaks_in_the_first_person(sample: SamplePool) -> None:
    person = re.compile(r"\b(I|my|My)\b")
    for row, told in zip(sample.pool, sample.truth, strict=True):
        assert bool(person.search(row["output"])) == ("chatter" in told["faults"]), row


def test_one_family_floods_and_every_other_stays_below_a_tenth(sample: SamplePool) -> None:
    counts = collections.Counter(told["family"] for told in sample.truth)
    (most, flooding), (_, second) = counts.most_common(2)
    assert most == "unit_conversion"
    assert flooding > 2000 * 0.18
    assert second < 2000 * 0.1
    assert len(counts) == len(FAMILIES) >= 12


def test_ids_and_order_tell_nothing_about_faults(sample: SamplePool) -> None:
    assert [row["id"] for row in sample.pool] == [f"sample-{i:04d}" for i in range(2000)]
    places = [np.arange(2000)[[fault in told["faults"] for told in sample.truth]] for fault in RATES]
    for place in places:
        assert abs(place.mean() - 1000) < 4 * 577 / np.sqrt(len(place))


def test_lengths_run_from_a_word_to_a_lesson(sample: SamplePool) -> None:
    lengths = [len(row["output"]) for row, _ in with_fault(sample, "")]
    assert min(lengths) <= 3
    assert sum(1200 <= n <= 4096 for n in lengths) >= 10


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path) -> None:
    made = []
    for hash_seed in ("1", "2"):
        out = tmp_path / hash_seed
        code = (
            f"from pathlib import Path; from dfilter.sample import write; write(Path({str(out)!r}), 300, 7)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": hash_seed})
        made.append([(out / f"{name}.jsonl").read_bytes() for name in ("pool", "heldout", "truth")])
    assert made[0] == made[1]
    assert generate(300, seed=8).pool != generate(300, seed=7).pool


def test_held_out_rows_depend_on_the_seed_alone() -> None:
    assert generate(50, seed=3).heldout == generate(400, seed=3).heldout


def test_written_files_hold_what_was_generated(tmp_path) -> None:
    sample = write(tmp_path, rows=60, seed=1)
    lines = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    assert lines == list(sample.pool)
    assert set(lines[0]) == {"id", "instruction", "input", "output"}
    assert read_truth(tmp_path / "truth.jsonl") == list(sample.truth)
    held = json.loads((tmp_path / "heldout.jsonl").read_text().splitlines()[0])
    assert set(held) == {"instruction", "input", "output", "answer", "task"}


@pytest.mark.parametrize("rows", [1, 2, 7, 19, 40])
def test_tiny_pools_have_their_size(rows: int) -> None:
    sample = generate(rows, seed=rows)
    assert len(sample.pool) == len(sample.truth) == rows


def test_fifty_thousand_distinct_rows_can_be_made() -> None:
    rows = generate(52_700, heldout_per_family=0).pool
    assert len({(question(row), row["output"]) for row in rows}) >= 50_000


def test_no_rows_are_refused_with_a_sentence() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        generate(0)


# --- answers, worked out again from the question by other means


def problems(family: str, count: int = 300):
    rng = random.Random(5)
    return [FAMILIES[family](rng) for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_wordings_differ_the_wrong_answer_differs_and_every_style_ends_with_the_answer(family: str) -> None:
    for problem in problems(family, 100):
        assert problem.family == family
        assert len(set(problem.wordings)) == len(problem.wordings) >= 4
        assert problem.wrong != problem.answer
        for style in STYLES:
            said = respond(problem, style, random.Random(0))
            assert said.rstrip(".").endswith(problem.answer.rstrip("."))


def test_sorted_answers_are_sorted() -> None:
    for p in problems("sorting"):
        items, got = p.wordings[0][1].split(", "), p.answer.split(", ")
        how = p.wordings[0][0]
        key = int if "numbers" in how else str
        assert got == sorted(items, key=key, reverse="reverse" in how or "largest to" in how)


def test_dates_and_weekdays_are_counted_right() -> None:
    for p in problems("dates"):
        text = p.wordings[0][0]
        days = int(re.search(r"(\d+) days", text)[1])
        if found := re.search(r"on (\d+) (\w+) (\d{4})", text):
            start = date(int(found[3]), MONTHS.index(found[2]) + 1, int(found[1]))
            end = start + timedelta(days)
            assert p.answer == f"{end.day} {end:%B} {end.year}"
        else:
            week = list(WEEKDAYS)
            at = week.index(re.search(r"is (\w+day)", text)[1])
            assert p.answer == (week * 10)[at + days]


def test_counts_and_units_and_capitals_are_right() -> None:
    for p in problems("counting"):
        if letter := re.search(r'letter "(\w)"', p.wordings[0][0]):
            assert int(p.answer) == len(re.findall(letter[1], p.wordings[1][1]))
        else:
            assert int(p.answer) == len(re.findall(r"\S+", p.wordings[0][1]))
    for p in problems("facts"):
        if p.facts.startswith("capitals"):
            assert p.answer == ", ".join(CAPITALS[c][0] for c in p.wordings[1][1].split(", "))
        else:
            continent = p.facts.split(" [")[0]
            inside = [c for c in p.wordings[1][1].split(", ") if CAPITALS[c][1] == continent]
            assert inside == [p.answer]


def test_tables_clocks_directions_and_json_are_right() -> None:
    for p in problems("table_lookup"):
        head, *lines = [line.split(",") for line in p.wordings[0][1].splitlines()]
        asked = p.wordings[1][0]
        column = head.index(re.search(rf"({head[1]}|{head[2]})", asked)[1])
        values = {line[0]: int(line[column]) for line in lines}
        if "total" in asked:
            assert int(p.answer) == sum(values.values())
        elif "most" in asked:
            assert values[p.answer] == max(values.values())
        else:
            assert int(p.answer) == values[re.search(r"did (\w+) sell", asked)[1]]
    for p in problems("clock"):
        hour, minute, length = map(
            int, re.search(r"at (\d\d):(\d\d) and lasts (\d+)", p.wordings[0][0]).groups()
        )
        ticks = (hour * 60 + minute + length) % 1440
        assert p.answer == f"{ticks // 60:02d}:{ticks % 60:02d}"
    compass = {"north": 0, "east": 90, "south": 180, "west": 270}
    for p in problems("directions"):
        text = p.wordings[1][1]
        angle = (
            compass[re.search(r"faces (\w+)", text)[1]] + 90 * text.count("right") - 90 * text.count("left")
        )
        assert compass[p.answer] == angle % 360
    for p in problems("formatting"):
        row = json.loads(p.answer)
        assert all(str(value) in p.wordings[0][1] for value in row.values())


def test_arithmetic_follows_the_story() -> None:
    words = {in_words(n): n for n in range(999, -1, -1)}
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    solved = collections.Counter()
    for p in problems("arithmetic"):
        story = pattern.sub(lambda m: str(words[m[0]]), p.wordings[1][1])
        n = [int(x) for x in re.findall(r"\d+", story)]
        for clue, rule in {
            "packs": lambda a, b, c: a * b - c,
            "takes": lambda a, b, c: a + b - c,
            "shares": lambda a, b: a // b,
            "saves": lambda a, b, c: a * b + c,
            "gives them": lambda a, b, c: a + b + c,
        }.items():
            if clue in story:
                assert int(p.answer) == rule(*n), story
                solved[clue] += 1
                break
    assert len(solved) == 5


# --- how much of each fault was kept


def toy_truth() -> list[dict]:
    rows = [{"id": str(i), "faults": [], "of": None} for i in range(10)]
    rows[1]["faults"], rows[2]["faults"] = ["wrong"], ["wrong"]
    rows[4].update(faults=["duplicate"], of="3")
    rows[5].update(faults=["duplicate"], of="3")
    return rows


def test_kept_faults_by_hand() -> None:
    table = {entry.fault: entry for entry in faults_kept(toy_truth(), ["1", "4", "5", "6", "7"])}
    assert (table["wrong"].pool, table["wrong"].kept, table["wrong"].random) == (2, 1, 1.0)
    # Rows 4 and 5 repeat row 3: one of them is too many although row 3 itself was not kept.
    assert (table["duplicate"].pool, table["duplicate"].kept) == (2, 1)
    assert table["clean"].pool == 6
    assert np.isnan(table["swapped"].share)
    assert table["wrong"].share == 0.5


def test_keeping_everything_keeps_every_fault_as_random_would() -> None:
    for entry in faults_kept(toy_truth(), [str(i) for i in range(10)]):
        assert entry.kept == entry.pool == pytest.approx(entry.random)


def test_what_random_keeps_is_the_mean_over_all_subsets() -> None:
    truth = toy_truth()
    every = [faults_kept(truth, [str(i) for i in ids]) for ids in itertools.combinations(range(10), 4)]
    for entries in zip(*every, strict=True):
        assert np.mean([entry.kept for entry in entries]) == pytest.approx(entries[0].random)


def test_large_and_small_pools_count_random_duplicates_alike(monkeypatch) -> None:
    sample = generate(2001, seed=2)
    ids = [row["id"] for row in sample.pool[:500]]
    large = faults_kept(sample.truth, ids)
    rng = np.random.default_rng(0)
    names = [row["id"] for row in sample.pool]
    kept = [
        {e.fault: e.kept for e in faults_kept(sample.truth, rng.choice(names, 500, replace=False))}[
            "duplicate"
        ]
        for _ in range(60)
    ]
    expected = {e.fault: e.random for e in large}["duplicate"]
    assert abs(np.mean(kept) - expected) < 4 * np.std(kept) / np.sqrt(60)


def test_foreign_ids_are_refused_and_a_restricted_pool_counts_only_itself() -> None:
    with pytest.raises(InputError, match="does not know 1 of 2 selected rows, for instance 'x'"):
        faults_kept(toy_truth(), ["1", "x"])
    table = {e.fault: e for e in faults_kept(toy_truth(), ["1"], pool_ids=["0", "1"])}
    assert (table["wrong"].pool, table["wrong"].random) == (1, 0.5)
