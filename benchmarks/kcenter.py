"""Greedy k-center against the per-step algorithms that are in use.

    python benchmarks/kcenter.py                         # rows of --data, or made up; about two minutes
    python benchmarks/kcenter.py --scale 500000:5000     # more rows, mixed from those
    python benchmarks/kcenter.py --large                 # 10,000,000 x 384 from a memory map; 15 GB of disk

(a) is the loop of google/active-learning and its copies: scikit-learn's pairwise distances to the newest
centre and a running minimum. (b) is anomalib's: the norm of the differences to it. (c) is one float32
matrix-vector product. Each takes the same time at every step, so some steps are timed and multiplied by k.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from dfilter.cluster import pairs
from dfilter.cluster.kcenter import KCenter, kcenter
from dfilter.cluster.precision import bf16_pays

REAL = "embeddings/instructions_52k_minilm_f16.npy"
CHUNK = 1 << 17


def rows(data: str | None) -> np.ndarray:
    folder = os.environ.get("DFILTER_TEST_DATA")
    path = Path(data) if data else Path(folder or "") / REAL
    if path.is_file():
        return np.load(path).astype(np.float32)
    print("No --data and no DFILTER_TEST_DATA: rows are made up.")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 384))[rng.integers(500, size=52_002)] + rng.standard_normal((52_002, 384))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def mixed(X: np.ndarray, n: int, out: np.ndarray) -> np.ndarray:
    """Fill ``out`` with unit rows between two rows of X each."""
    rng = np.random.default_rng(1)
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        a, b = rng.integers(len(X), size=(2, count))
        share = rng.random((count, 1), dtype=np.float32)
        block = X[a] * share + X[b] * (1 - share)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        out[start : start + count] = block
    return out


def step_sklearn(X: np.ndarray) -> Callable[[int], int]:
    from sklearn.metrics import pairwise_distances

    state: list[np.ndarray] = []

    def step(centre: int) -> int:
        distance = pairwise_distances(X, X[[centre]], metric="euclidean")
        state[:] = [np.minimum(state[0], distance)] if state else [distance]
        return int(np.argmax(state[0]))

    return step


def step_norm(X: np.ndarray) -> Callable[[int], int]:
    rows = torch.from_numpy(X)
    state: list[torch.Tensor] = []

    def step(centre: int) -> int:
        distance = torch.linalg.norm(rows - rows[centre : centre + 1], ord=2, dim=1, keepdim=True)
        state[:] = [torch.minimum(state[0], distance)] if state else [distance]
        return int(torch.argmax(state[0]))

    return step


def step_product(X: np.ndarray) -> Callable[[int], int]:
    rows = torch.from_numpy(X)
    state: list[torch.Tensor] = []

    def step(centre: int) -> int:
        cosine = torch.mv(rows, rows[centre])
        state[:] = [torch.maximum(state[0], cosine)] if state else [cosine]
        return int(torch.argmin(state[0]))

    return step


RIVALS = {"a": step_sklearn, "b": step_norm, "c": step_product}


def timed_steps(rival: str, X: np.ndarray, steps: int) -> float:
    """Seconds a step, without the first."""
    step = RIVALS[rival](X)
    pick, seconds = step(0), []
    for _ in range(steps):
        began = time.perf_counter()
        pick = step(pick)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def plain(X: np.ndarray, k: int) -> list[int]:
    """The definition: one pass with the exact pair routine for every pick."""
    scale = 1 / np.sqrt([pairs.lane_sum(x, 1.0, x, 0.0) for x in X])
    value, every, out, picks = np.full(len(X), np.inf), np.arange(len(X)), np.empty(len(X)), [0]
    X = X[:]
    X.flags.writeable = False
    while len(picks) < k:
        pairs.values(0, len(X), every, np.full(len(X), picks[-1]), X, scale, out)
        value = np.minimum(value, out)
        value[picks] = -1
        picks.append(int(value.argmax()))
    return picks


def compare(X: np.ndarray, k: int, repeats: int, steps: int) -> str:
    """One line of the table: medians of interleaved runs."""
    ours, theirs = [], {name: [] for name in RIVALS}
    for _ in range(repeats):
        began = time.perf_counter()
        found = kcenter(X, k)
        ours.append(time.perf_counter() - began)
        for name, seconds in theirs.items():
            seconds.append(timed_steps(name, X, steps) * k)
    other = kcenter(X, k, precision="f32", block=333, threads=1)
    same = np.array_equal(found.indices, other.indices) and np.array_equal(found.radius, other.radius)
    seconds = statistics.median(ours)
    ratios = " | ".join(
        f"{statistics.median(t):,.1f} s = {statistics.median(t) / seconds:,.0f} x" for t in theirs.values()
    )
    share = found.counters.evaluations / (len(X) * k)
    load = os.getloadavg()[0]
    return (
        f"| {len(X):,} | {k:,} | {seconds:.2f} | {ratios} | {share:.0%} | {found.counters.rounds} | "
        f"{'yes' if same else 'NO'} | {load:.1f} |"
    )


@contextmanager
def anonymous_memory() -> Iterator[list[int]]:
    """Sample this process's anonymous resident memory; the largest, in bytes, is the last of the list."""
    largest, done = [0], threading.Event()

    def sample() -> None:
        status = Path("/proc/self/status")
        while status.exists() and not done.wait(0.2):
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            largest.append(max(largest[-1], int(line.split()[1]) * 1024))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield largest
    done.set()
    thread.join()


def scaled(X: np.ndarray, k: int, steps: int) -> str:
    """One line of the scaling table: a single run, and (a) from some steps."""
    with anonymous_memory() as memory:
        began = time.perf_counter()
        found: KCenter = kcenter(X, k)
        seconds = time.perf_counter() - began
    google = timed_steps("a", X, steps) * k if steps else float("nan")
    ratio = f"{google:,.0f} s = {google / seconds:,.0f} x" if steps else "not run"
    share = found.counters.evaluations / (len(X) * k)
    load = os.getloadavg()[0]
    return (
        f"| {len(X):,} | {k:,} | {seconds:.1f} | {ratio} | {share:.0%} | {found.counters.rounds} | "
        f"{memory[-1] / 1e9:.1f} GB | {found.radius[-1]:.4f} | {load:.1f} |"
    )


def compilation() -> str:
    """Seconds of a first call with no machine code kept, and with it."""
    code = (
        "import time, numpy as np; from dfilter.cluster.kcenter import kcenter; t = time.perf_counter();"
        "kcenter(np.eye(9, dtype=np.float32), 3); print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "NUMBA_CACHE_DIR": folder}
        first, later = (
            float(
                subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
            )
            for _ in range(2)
        )
    return (
        f"First call in a new process: {first:.1f} s with compilation, {later:.1f} s once it is kept on disk."
    )


def large(X: np.ndarray, n: int, k: int, scratch: str | None) -> str:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / "rows.npy"
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, X.shape[1]))
        mixed(X, n, table)
        table.flush()
        del table
        return scaled(np.load(path, mmap_mode="r"), k, 0)


def header(*columns: str) -> str:
    names = ("n", "k", "seconds", *columns)
    return f"| {' | '.join(names)} |\n" + "|---" * len(names) + "|"


def sizes(text: str) -> list[tuple[int, int]]:
    return [tuple(map(int, part.split(":"))) for part in text.split(",") if part]  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="an .npy file of rows")
    parser.add_argument("--k", default="1000,9000", help="picks from the rows as they are")
    parser.add_argument("--scale", default="", help="n:k,... on rows mixed from them")
    parser.add_argument("--large", action="store_true", help="10,000,000 rows, k = 20,000, from a memory map")
    parser.add_argument("--scratch", help="folder for the large file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="timed steps of (a), (b), (c)")
    args = parser.parse_args()
    X = rows(args.data)
    print(
        f"{torch.get_num_threads()} threads, bfloat16 {'used' if bf16_pays('cpu') else 'not used'}, "
        f"load average {os.getloadavg()[0]:.1f} before the start."
    )
    print(compilation())
    kcenter(X[:1000], 100)
    if args.k:
        count = min(500, len(X))
        same = plain(X, count) == kcenter(X, count).indices.tolist()
        print(f"First {count} picks equal those of the plain float64 algorithm: {'yes' if same else 'NO'}.\n")
        print(
            header(
                "(a) sklearn pairwise",
                "(b) norm of differences",
                "(c) float32 product",
                "distances / nk",
                "rounds",
                "same with f32, block 333, 1 thread",
                "load",
            )
        )
        for k in map(int, args.k.split(",")):
            print(compare(X, min(k, len(X)), args.repeats, args.steps), flush=True)
        print("\n(a), (b), (c): median of timed steps, multiplied by k.")
    if args.scale or args.large:
        columns = (
            "(a) sklearn pairwise",
            "distances / nk",
            "rounds",
            "anonymous memory",
            "last radius",
            "load",
        )
        print("\n" + header(*columns))
    for n, k in sizes(args.scale):
        print(scaled(mixed(X, n, np.empty((n, X.shape[1]), np.float32)), k, 3), flush=True)
    if args.large:
        print(large(X, 10_000_000, 20_000, args.scratch), flush=True)


if __name__ == "__main__":
    main()
