"""People judge a comparison: a blind sheet goes out, comes back filled in, and stands in the table."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from dfilter.cli import main
from dfilter.errors import FolderError
from dfilter.leaderboard.cells import Cell, read_cell, read_cells, read_result, write_cell
from dfilter.models import resolve
from dfilter.sheets import Export, _duels
from dfilter.store.seal import write_checked

SEEDS, PROMPTS = 2, 6


def call(*words):
    return CliRunner().invoke(main, ["sheet", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two strategies and two seeds, each model another one; what is exported is kept in `ann.csv`."""
    folder = tmp_path_factory.mktemp("people")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(folder / "home"))
        for number, (strategy, seed) in enumerate(
            (s, n) for s in ("kcenter", "random") for n in range(SEEDS)
        ):
            cell = folder / "out" / "cells" / f"{strategy}-10-seed{seed}"
            write_cell(cell, Cell(strategy, "10", seed, rows=10, protocol={"model": "tiny"}))
            write_checked(cell / "identity.json", {"identity": {"rows": None, "seed": [strategy, seed]}})
            (cell / "job.json").write_text('{"evaluations": {}}')  # as a comparison leaves one; no sheet
            shutil.copytree(resolve("tiny").path, cell / "model")
            weights = load_file(cell / "model" / "model.safetensors")
            draws = np.random.default_rng(number)
            changed = {n: w + draws.normal(0, 0.2, w.shape).astype(w.dtype) for n, w in weights.items()}
            (cell / "model" / "model.safetensors").unlink()
            save_file(changed, cell / "model" / "model.safetensors", {"format": "pt"})
        asked = [{"id": f"q{i}", "prompt": f"question number {i}"} for i in range(PROMPTS)]
        (folder / "asked.json").write_text(json.dumps(asked))
        done = call("export", folder / "out", folder / "asked.json", "-s", "kcenter", "--max-new-tokens", 6,
                    "-o", folder / "ann.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def lines(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def filled(made, name, verdict, rows=None):
    """Fill a copy of the sheet; verdict is given the line and whether kcenter's answer stands first."""
    (key,) = (made / "out" / "sheets").glob("*.json")
    theirs = {
        (pair["prompt"], pair["model"].strip(), pair["opponent"].strip())
        for part in json.loads(key.read_text())["parts"]
        for pair in part["pairs"]
    }
    told = []
    for line in lines(made / "ann.csv") if rows is None else rows:
        first = (line["prompt"], line["answer 1"].strip(), line["answer 2"].strip()) in theirs
        told.append(line | {"better": verdict(line, first)})
    path = made / name
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, told[0])
        writer.writeheader()
        writer.writerows(told)
    return path


@pytest.fixture
def out(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def test_a_sheet_names_nobody_and_mixes_sides(made) -> None:
    rows = lines(made / "ann.csv")
    assert len(rows) == SEEDS * PROMPTS
    text = (made / "ann.csv").read_text(encoding="utf-8-sig")
    assert not any(word in text for word in ("kcenter", "random", "seed", "q0"))
    sides = []
    filled(made, "sides.csv", lambda line, first: sides.append(first) or "1")
    assert 0 < sum(sides) < len(sides)


def test_what_people_say_is_an_evaluation_in_the_table(made, out) -> None:
    """Ann always prefers kcenter, Ben calls everything a tie: 75% of the pooled shares are kcenter's."""
    ann = filled(made, "ann-filled.csv", lambda line, first: "1" if first else "2")
    ben = filled(made, "ben.csv", lambda line, first: "tie")
    done = call("import", out, ann, ben)
    assert done.exit_code == 0, done.output
    found = read_result(out / "cells" / "kcenter-10-seed1" / "results" / "people-asked-random.json")
    assert found.prompts == tuple(f"asked/q{i}" for i in range(PROMPTS))
    assert found.values.tolist() == [0.75] * PROMPTS
    assert found.facts["judges"] == {"ann-filled": [1.0] * PROMPTS, "ben": [0.5] * PROMPTS}
    assert not read_cell(out / "cells" / "random-10-seed0").results
    table = CliRunner().invoke(main, ["leaderboard", str(out), "--format", "md"]).stdout
    assert "win rate against random, by people" in table
    assert "75" in table
    assert call("import", out, ben).exit_code == 0  # the later import is what counts
    again = read_result(out / "cells" / "kcenter-10-seed0" / "results" / "people-asked-random.json")
    assert again.values.tolist() == [0.5] * PROMPTS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text(file.read_text().replace("0.75", "0.95", 1)),
        lambda file: file.write_text(file.read_text().replace("checksum", "sum")),
        lambda file: shutil.copy(file, file.parents[2] / "kcenter-10-seed0" / "results" / "more.json"),
        lambda file: shutil.copytree(file.parent, file.parents[2] / "random-10-seed1" / "results"),
        lambda file: write_checked(
            file.parents[2] / "random-10-seed1" / "identity.json", {"identity": {"seed": "another"}}
        ),
    ],
)
def test_judgements_of_other_trainings_or_other_hands_are_refused(made, out, spoil) -> None:
    ann = filled(made, "some.csv", lambda line, first: "1" if first else "2")
    ben = filled(made, "more.csv", lambda line, first: "tie")
    assert call("import", out, ann, ben).exit_code == 0
    read_cells(out)
    spoil(out / "cells" / "kcenter-10-seed1" / "results" / "people-asked-random.json")
    with pytest.raises(FolderError, match=r"(is damaged|for other trainings); (delete|run the comp)"):
        read_cells(out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows[:-1], rows[-1] | {"better": ""}], "1 of 12 items have no verdict"),
        (lambda rows: rows[:-2], "2 of 12 items have no verdict"),
        (lambda rows: [*rows[:-1], rows[-1] | {"better": "both"}], "line 13: better is 'both'"),
        (lambda rows: [*rows[:-1], rows[-1] | {"item": "x1"}], "line 13: item 'x1' stands there but is not"),
        (lambda rows: [*rows, rows[0]], "line 14: item '.*' stands there twice"),
        (lambda rows: [row | {"item": "x1"} for row in rows], "is no sheet of"),
        (
            lambda rows: [{k: v for k, v in row.items() if k != "better"} for row in rows],
            "has no lines under",
        ),
    ],
)
def test_what_is_wrong_with_a_sheet_is_a_sentence_and_nothing_is_written(made, out, change, said) -> None:
    rows = change([line | {"better": "1"} for line in lines(made / "ann.csv")])
    path = made / "wrong.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = call("import", out, path)
    assert done.exit_code == 2
    assert re.search(said, " ".join(done.stderr.split()))
    assert not list(out.glob("cells/*/results/*"))


def test_a_model_that_was_trained_anew_needs_a_new_sheet(made, out) -> None:
    path = filled(made, "full.csv", lambda line, first: "1")
    cell = out / "cells" / "random-10-seed0"
    write_checked(cell / "identity.json", {"identity": {"rows": None, "seed": "another"}})
    done = call("import", out, path)
    assert (done.exit_code, "was trained anew" in " ".join(done.stderr.split())) == (2, True)
    assert not list(out.glob("cells/*/results/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-s", "kcentre"], "Did you mean 'kcenter'?"),
        (["-s", "kcenter", "-k", "20"], "Name a budget of kcenter with --keep: 10."),
        (["-s", "kcenter", "--against", "longest"], "There is no longest of the size and seed of"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(made, tmp_path, words, said) -> None:
    done = call("export", made / "out", made / "asked.json", *words, "-o", tmp_path / "new.csv")
    assert (done.exit_code, said in " ".join(done.stderr.split())) == (2, True)
    assert not (tmp_path / "new.csv").exists()


def test_sheets_of_two_exports_find_their_own_key_though_they_share_items(made, out, tmp_path) -> None:
    """A first export of 2 prompts a seed, a second one of all: both come back, in both orders of time."""
    few, asked = tmp_path / "few.csv", made / "asked.json"
    done = call("export", out, asked, "-s", "kcenter", "--max-new-tokens", 6, "--limit", 2, "-o", few)
    assert done.exit_code == 0, done.output
    shared = {row["item"] for row in lines(few)}
    assert len(shared) == 2 * SEEDS
    assert shared < {row["item"] for row in lines(made / "ann.csv")}
    keys = sorted((out / "sheets").glob("*.json"))
    assert len(keys) == 2
    result = out / "cells" / "kcenter-10-seed0" / "results" / "people-asked-random.json"
    for names in ("ab", "dc"):
        keys = [key.rename(key.with_name(f"{name}.json")) for key, name in zip(keys, names, strict=True)]
        for rows, count in ((lines(few), 2), (lines(made / "ann.csv"), PROMPTS)):
            told = filled(made, "told.csv", lambda line, first: "1" if first else "2", rows)
            done = call("import", out, told)
            assert done.exit_code == 0, done.output
            assert read_result(result).values.tolist() == [1.0] * count
    part = filled(made, "part.csv", lambda line, first: "1", lines(made / "ann.csv")[:-1])
    assert "1 of 12 items have no verdict" in " ".join(call("import", out, part).stderr.split())


def copied(out, name, cell, job=None) -> None:
    """Add a cell that has the model of a random one."""
    folder = shutil.copytree(out / "cells" / "random-10-seed0", out / "cells" / name)
    write_cell(folder, cell)
    if job:
        (folder / "job.json").write_text(json.dumps({"opponents": {"random": str(job)}}))


@pytest.mark.parametrize("named", [None, "random-20-seed0", "random-10-seed0"])
def test_everything_is_judged_against_the_one_that_the_comparison_took(made, out, tmp_path, named) -> None:
    """As `compare` does: what its job names, else the smallest reference of the seed."""
    copied(out, "random-20-seed0", Cell("random", "20", 0, rows=20, protocol={"model": "tiny"}))
    job = Path("/moved/since/cells") / named / "model" if named else None
    copied(out, "full-full-seed0", Cell("full", "full", 0, rows=99, protocol={"model": "tiny"}), job)
    asked = Export(out, str(made / "asked.json"), "full", "random")
    assert [theirs.name for _, theirs, _ in _duels(asked)] == [named or "random-10-seed0"]
    with pytest.raises(FolderError, match="There is no longest of the size and seed"):
        _duels(replace(asked, against="longest"))


def test_a_sheet_is_exported_for_everything_too(made, out, tmp_path) -> None:
    (ours := out / "cells" / "full-full-seed0").mkdir()
    shutil.copytree(out / "cells" / "kcenter-10-seed0", ours, dirs_exist_ok=True)
    write_cell(ours, Cell("full", "full", 0, rows=99, protocol={"model": "tiny"}))
    done = call(
        "export", out, made / "asked.json", "-s", "full", "--max-new-tokens", 6, "-o", tmp_path / "f.csv"
    )
    assert done.exit_code == 0, done.output
    assert len(lines(tmp_path / "f.csv")) == PROMPTS


def test_a_sheet_is_never_overwritten(made) -> None:
    done = call("export", made / "out", made / "asked.json", "-s", "kcenter", "-o", made / "ann.csv")
    assert (done.exit_code, "somebody may have filled it in" in " ".join(done.stderr.split())) == (2, True)


@pytest.mark.parametrize("words", [[], ["export"], ["import"]])
def test_every_help_has_an_example(words) -> None:
    assert "dfilter sheet" in call(*words, "--help").output.partition("Example")[2]
