"""K-Means against scikit-learn's, from the same starting rows; inertia beside the seconds.

    python benchmarks/kmeans.py [--data rows.npy] [--sizes 20000:141,52002:228]

Runs are interleaved and medians printed. Both stop by scikit-learn's rule, at most 100 iterations. faiss is
measured too where it is installed (20 iterations, which is its default, no stopping rule).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from dfilter.cluster.kmeans import kmeans
from dfilter.cluster.precision import bf16_pays

REAL = "embeddings/instructions_52k_minilm_f16.npy"
Result = tuple[float, float, int]  # seconds, inertia, iterations


def rows(data: str | None) -> np.ndarray:
    path = Path(data) if data else Path(os.environ.get("DFILTER_TEST_DATA", "")) / REAL
    if path.is_file():
        return np.load(path).astype(np.float32)
    print("No --data and no DFILTER_TEST_DATA: rows are made up.")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 384))[rng.integers(500, size=52_002)] + rng.standard_normal((52_002, 384))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def ours(X: np.ndarray, init: np.ndarray, metric: str) -> Result:
    began = time.perf_counter()
    found = kmeans(X, len(init), init=init, metric=metric)
    return time.perf_counter() - began, found.inertia / len(X), found.iterations


def scikit_learn(X: np.ndarray, init: np.ndarray) -> Result:
    from sklearn.cluster import KMeans

    began = time.perf_counter()
    model = KMeans(len(init), init=init, n_init=1, max_iter=100).fit(X)
    return time.perf_counter() - began, model.inertia_ / len(X), model.n_iter_


def faiss(X: np.ndarray, init: np.ndarray) -> Result:
    import faiss

    model = faiss.Kmeans(X.shape[1], len(init), niter=20, max_points_per_centroid=len(X))
    began = time.perf_counter()
    model.train(X, init_centroids=init)
    squares, _ = model.index.search(X, 1)
    return time.perf_counter() - began, float(squares.mean()), 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="an .npy file of rows")
    parser.add_argument("--sizes", default="2000:20,20000:141,52002:228", help="n:k,...")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    X = rows(args.data)
    contenders = {
        "dfilter, euclidean": lambda A, init: ours(A, init, "euclidean"),
        "scikit-learn": scikit_learn,
        "dfilter, spherical": lambda A, init: ours(A, init, "cosine"),
    }
    if importlib.util.find_spec("faiss"):
        contenders["faiss"] = faiss
    kmeans(X[:500], 5)
    print(f"{torch.get_num_threads()} threads, bfloat16 {'used' if bf16_pays('cpu') else 'not used'}.\n")
    print("| n | k | | seconds | inertia / n | iterations | scikit-learn's seconds over these | load |")
    print("|---" * 8 + "|")
    for n, k in (map(int, size.split(":")) for size in args.sizes.split(",")):
        A = X[:n]
        init = A[np.sort(np.random.default_rng(0).choice(len(A), k, replace=False))]
        runs: dict[str, list[Result]] = {name: [] for name in contenders}
        for _ in range(args.repeats):
            for name, contender in contenders.items():
                runs[name].append(contender(A, init))
        seconds = {name: statistics.median(r[0] for r in results) for name, results in runs.items()}
        for name, results in runs.items():
            ratio = seconds["scikit-learn"] / seconds[name]
            _, inertia, iterations = results[-1]
            load = os.getloadavg()[0]
            print(
                f"| {len(A):,} | {k} | {name} | {seconds[name]:.2f} | {inertia:.4f} | {iterations} | "
                f"{ratio:.1f} x | {load:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
