"""What torch's products may be relied on for: which precision pays, and that it is the one asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def exact_products(threads: int | None) -> Iterator[int]:
    """Hold torch to what a margin assumes, and to one thread; yield how many threads we may take.

    A caller may have allowed float32 products in TF32 or bfloat16, and CUDA adds up the parts of a
    split bfloat16 product in bfloat16 unless told otherwise. Several threads with a product each beat
    one product in several threads, which wait for each other, long on a busy machine. All is restored.
    """
    matmuls: tuple[Any, Any] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [matmul.fp32_precision for matmul in matmuls]
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    count = torch.get_num_threads()
    try:
        for matmul in matmuls:
            matmul.fp32_precision = "ieee"
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.set_num_threads(1)
        yield threads or count
    finally:
        for matmul, precision in zip(matmuls, before, strict=True):
            matmul.fp32_precision = precision
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
        torch.set_num_threads(count)


@cache
def bf16_pays(device: str) -> bool:
    """Whether bfloat16 products are right and faster than float32's here: tried out, not looked up.

    The answer changes no result, only the time.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with exact_products(1):
        single = torch.linspace(-1, 1, 512 * 384).reshape(512, 384).sin()
        half = single.to(torch.bfloat16)
        exact = half.double() @ half.double().T
        size = half.double().norm(dim=1)
        margin = torch.outer(size, size) * (386 * 2.0**-22 + 2.0**-8)
        if bool(((half @ half.T).double() - exact).abs().gt(margin).any()):
            return False
        return _cpu_seconds(half) < 0.8 * _cpu_seconds(single)


def _cpu_seconds(matrix: torch.Tensor) -> float:
    """Return the least time of a few products, by this thread's own clock: others' load does not count."""
    times = []
    for _ in range(4):
        began = time.thread_time()
        torch.mm(matrix, matrix.T)
        times.append(time.thread_time() - began)
    return min(times)
