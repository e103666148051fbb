"""What of a long row should be embedded: beginning, end, or piece by piece; with its system turn or without.

    python benchmarks/views.py [--data FOLDER] [--rows 120] [--lima 300] [--model minilm]

The folder holds alpaca/alpaca_data.json and lima/lima_1k.json. From Alpaca's rows come pools whose rows share
a beginning longer than the encoder's window. There the truth is known: the vectors of the same rows without
what they share. LIMA's rows share nothing; their truth is the cosine of TF-IDF over all of their words but
the commonest, which no window cuts. A tenth of every pool is copied with one word changed: near duplicates
that should be found.

rank      Spearman correlation of all pairs' cosines with the true ones
distance  mean true distance of a row to the nearest of k-center's picks, 10% of the rows (lower is better)
vectors   copies found, and rows dropped that are none, by cosines from 0.95 on alone
texts     the same with `duplicates`, which compares the texts of rows that no window holds
least     the least cosine of two pieces of a row that was dropped and the one that stayed, piece by piece
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from dfilter.data.dataset import Dataset
from dfilter.embed.encoder import load_encoder
from dfilter.embed.passages import passages
from dfilter.embed.sentences import Embedding
from dfilter.filters.duplicates import THRESHOLD, Duplicates
from dfilter.filters.kcenter import KCenter
from dfilter.models import resolve
from dfilter.pool import Pool, Store

TOPICS = [
    "weather",
    "hotels",
    "trains",
    "flights",
    "buses",
    "museums",
    "concerts",
    "parks",
    "ferries",
    "fairs",
]
FRAME = "You work at the desk of a travel agency. " + " ".join(
    f"Tool {at}: lookup_{topic}(city: string, date: string) returns the {topic} of a city on a day as JSON, "
    f"and an empty list where there are none; never invent {topic} that it did not return."
    for at, topic in enumerate(TOPICS)
)
VARIANTS = {
    "beginning, with system": {"long": "cut", "system": True},
    "beginning": {"long": "cut"},
    "end": {"long": "tail"},
    "pieces": {"long": "chunks"},
    "turns": {"long": "turns"},
}


@dataclass(frozen=True)
class Trial:
    """A pool, the rows that are copies, and the true cosines of its rows."""

    name: str
    rows: Dataset
    copies: frozenset[int]
    truth: NDArray[np.float64]


def edited(text: str, rng: random.Random) -> str:
    """Change one word of a text."""
    words = text.split(" ")
    words[rng.randrange(len(words))] = "indeed"
    return " ".join(words)


def with_copies(turns: Sequence[list[str]], rng: random.Random) -> tuple[list[list[str]], frozenset[int]]:
    """Append copies of a tenth of the conversations, each with one word of its longest turn changed."""
    made = [list(said) for said in turns]
    for said in rng.sample(list(turns), len(turns) // 10):
        longest = max(range(len(said)), key=lambda at: len(said[at]))
        made.append([edited(text, rng) if at == longest else text for at, text in enumerate(said)])
    return made, frozenset(range(len(turns), len(made)))


def framed(kind: str, asked: str, answer: str) -> list[tuple[str, str]]:
    """Return a row's turns with the shared text where ``kind`` says."""
    shots = "\n\n".join(
        f"Question: is the {topic} desk open on the {at}th, and what does it cost to ask there twice a day?\n"
        f"Answer: yes, from nine to five except on holidays, and every question to the {topic} desk is free."
        for at, topic in enumerate(TOPICS)
    )
    return {
        "system turn": [("system", FRAME), ("user", asked), ("assistant", answer)],
        "preamble": [("user", f"{FRAME}\n\n{asked}"), ("assistant", answer)],
        "context behind": [("user", f"{asked}\n\n{FRAME}"), ("assistant", answer)],
        "examples": [("user", f"{shots}\n\nQuestion: {asked}\nAnswer:"), ("assistant", answer)],
        "earlier turns": [("user", FRAME), ("assistant", shots), ("user", asked), ("assistant", answer)],
    }[kind]


def dataset(conversations: Sequence[Sequence[tuple[str, str]]]) -> Dataset:
    return Dataset.from_rows(
        [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in conversations]
    )


def trials(args: argparse.Namespace, bare: Embedding, store: Store) -> list[Trial]:
    rng = random.Random(0)
    alpaca = json.loads((args.data / "alpaca/alpaca_data.json").read_text(encoding="utf-8"))
    fits = [r for r in alpaca if not r["input"] and 20 < len(r["output"]) < 500]
    pairs, copies = with_copies([[r["instruction"], r["output"]] for r in rng.sample(fits, args.rows)], rng)
    plain = Pool(dataset([[("user", p), ("assistant", r)] for p, r in pairs]), store=store).signal(bare)
    truth = (plain @ plain.T).astype(np.float64)
    kinds = ("system turn", "preamble", "context behind", "examples", "earlier turns")
    made = [Trial(kind, dataset([framed(kind, p, r) for p, r in pairs]), copies, truth) for kind in kinds]
    lima = json.loads((args.data / "lima/lima_1k.json").read_text(encoding="utf-8"))
    drawn = rng.sample([row["conversations"] for row in lima], args.lima)
    said, copies = with_copies([[str(turn) for turn in turns] for turns in drawn], rng)
    roles = ("user", "assistant")
    rows = dataset([[(roles[at % 2], text) for at, text in enumerate(turns)] for turns in said])
    return [*made, Trial("LIMA", rows, copies, lexical([" ".join(turns) for turns in said]))]


def lexical(texts: Sequence[str]) -> NDArray[np.float64]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2).fit_transform(texts)
    return np.asarray((found @ found.T).todense(), np.float64)


def distance(truth: NDArray[np.float64], picks: NDArray[np.int64]) -> float:
    return float((1 - truth[:, picks].max(axis=1)).mean())


def least(rows: Dataset, pairs: Sequence[tuple[int, int]], embedding: Embedding) -> float:
    """Return the least cosine of two pieces that stand at the same place in the rows of a pair."""
    encoder = load_encoder(embedding.model, resolve(embedding.model).sha, embedding.placement(), "model")
    room = encoder.room("", encoder.window)
    lowest = 1.0
    for pair in pairs:
        texts = [embedding.reads(rows[at])[0] for at in pair]
        parts = [passages(text, encoder.spans([text])[0], room) for text in texts]
        vectors = encoder.encode(parts[0] + parts[1], "", encoder.window)
        one, other = vectors[: len(parts[0])], vectors[len(parts[0]) :]
        for a, b in zip(one, other, strict=False):
            lowest = min(lowest, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return lowest


def measured(trial: Trial, embedding: Embedding, store: Store) -> str:
    count = max(2, len(trial.rows) // 10)
    pool = Pool(trial.rows, wanted=count, store=store)
    X = pool.signal(embedding).astype(np.float64)
    cosines, upper = X @ X.T, np.triu_indices(len(X), 1)
    rank = spearmanr(cosines[upper], trial.truth[upper]).statistic
    picks = np.argsort(-KCenter(embedding=embedding).score(pool).values)[:count]
    kept: list[int] = []
    for at in range(len(X)):
        if not kept or cosines[at, kept].max() < THRESHOLD:
            kept.append(at)
    alone = set(range(len(X))) - set(kept)
    scores = Duplicates(embedding=embedding).score(Pool(trial.rows, store=store))
    dropped = set(np.flatnonzero(np.isnan(scores.values)).tolist())
    ids = {row_id: at for at, row_id in enumerate(trial.rows.ids)}
    pairs = [(at, ids[scores.reasons[at].split("'")[1]]) for at in sorted(dropped)]
    by_vectors, by_texts = (
        f"{len(out & trial.copies):7} {len(out - trial.copies):5}" for out in (alone, dropped)
    )
    far = distance(trial.truth, picks)
    return f"{rank:6.2f} {far:9.3f}{by_vectors}{by_texts}  {least(trial.rows, pairs, embedding):6.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("DFILTER_TEST_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, required=not data)
    parser.add_argument("--rows", type=int, default=120, help="of each pool that shares a beginning")
    parser.add_argument("--lima", type=int, default=300, help="of LIMA's 1,000 rows")
    parser.add_argument("--model", default="minilm")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        plain = Embedding(model=args.model)
        rng = np.random.default_rng(0)
        print("                                                      by vectors   by texts")
        print("                embedded                  rank distance copies other copies other  least")
        for trial in trials(args, plain, store):
            count = max(2, len(trial.rows) // 10)
            drawn = [rng.choice(len(trial.rows), count, replace=False) for _ in range(20)]
            chance = np.mean([distance(trial.truth, picks) for picks in drawn])
            print(
                f"{trial.name}: {len(trial.rows)} rows, {len(trial.copies)} copies, random picks {chance:.3f}"
            )
            for name, settings in VARIANTS.items():
                found = measured(trial, replace(plain, **settings), store)
                print(f"                {name:<24}{found}", flush=True)


if __name__ == "__main__":
    main()
