"""Rated rows a second against the bare OpenAI SDK on its aiohttp transport, in the same run, on one core.

python benchmarks/judge.py            two settings: 0.5 s latency, 1,000 in flight; 20 ms, 64 in flight
python benchmarks/judge.py --memory   peak memory while a million rows are rated

The server runs in a process of its own, on another core where there is one. "bare" keeps the same
number of chat.completions.create calls in flight and does nothing with the answers. "rate" is what
a run does: prompts from a template, limiter, ledger on disk, parser, tally. The two take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TEXT = "The quick brown fox jumps over the lazy dog and looks for something to eat in the long grass. "
SETTINGS = ((0.5, 1000, 12_000), (0.02, 64, 6000))


class Rows(Sequence):
    """Rows made when they are asked for, about 2 kB of prompt each."""

    def __init__(self, start: int, n: int) -> None:
        self.start, self.n = start, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index):
        from dfilter.types import Example, Message

        if index >= self.n:
            raise IndexError
        i = self.start + index
        return Example(
            str(i), (Message("user", f"Question {i}: {TEXT * 4}"), Message("assistant", TEXT * 6)), {}
        )

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(self.n))


def judge_of(url: str, concurrency: int):
    from dfilter.llm.judge import Judge

    return Judge(model="m", base_url=url, name="bench", concurrency=concurrency)


def bare(url: str, concurrency: int, rows: Rows) -> float:
    """Rows a second of the SDK alone."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    judge = judge_of(url, concurrency)
    prompts = [judge.request(row).messages for row in rows]

    async def main() -> float:
        import httpx2

        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with AsyncOpenAI(
            api_key="none", base_url=url, max_retries=0, http_client=DefaultAioHttpClient(limits=limits)
        ) as client:
            queue = iter(prompts)

            async def work() -> None:
                for messages in queue:
                    await client.chat.completions.create(
                        model="m", messages=messages, max_tokens=256, temperature=0
                    )

            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(concurrency)))
            return len(prompts) / (time.perf_counter() - started)

    return asyncio.run(main())


def ours(url: str, concurrency: int, rows: Rows) -> float:
    """Rated rows a second."""
    from dfilter.llm.judge import rate
    from dfilter.llm.session import Session

    judge = judge_of(url, concurrency)
    with Session(judge.server) as session:
        list(session.ask(judge.requests(Rows(10**9, 1), [0])))  # the probe is no part of the rate
        started = time.perf_counter()
        ratings = rate(rows, judge, session=session)
        taken = time.perf_counter() - started
    assert (ratings["status"] == 0).all()
    return len(rows) / taken


def one_core() -> list[str]:
    """Keep this process on one core and return the prefix that puts the server on another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    return ["taskset", "-c", str(cores[-1])] if len(cores) > 1 else []


def serve(prefix: list[str], latency: float) -> tuple[subprocess.Popen, str]:
    command = [*prefix, sys.executable, "-m", "dfilter.llm.scripted", "--latency", str(latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, server.stdout.readline().strip()


def rates(turns: int) -> bool:
    prefix, passed = one_core(), True
    print(f"{'latency':>8} {'in flight':>9} {'bare SDK':>10} {'rate':>10} {'ratio':>7}")
    for number, (latency, concurrency, n) in enumerate(SETTINGS, 1):
        server, url = serve(prefix, latency)
        try:
            results: dict[str, list[float]] = {"bare": [], "ours": []}
            for turn in range(turns):
                results["bare"].append(bare(url, concurrency, Rows(0, n)))
                results["ours"].append(ours(url, concurrency, Rows((10 * number + turn) * 10**6, n)))
        finally:
            server.terminate()
        a, b = statistics.median(results["bare"]), statistics.median(results["ours"])
        print(f"{latency:>7}s {concurrency:>9} {a:>8.0f}/s {b:>8.0f}/s {b / a:>6.0%}")
        passed &= b >= 0.8 * a
    return passed


def memory(rows: int) -> bool:
    """Rate ``rows`` rows without latency and print the peak of this process."""
    server, url = serve([], 0.0)
    started = time.perf_counter()
    try:
        speed = ours(url, 256, Rows(0, rows))
    finally:
        server.terminate()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(f.stat().st_size for f in Path(os.environ["DFILTER_HOME"]).glob("ledger*")) / 2**20
    taken = time.perf_counter() - started
    print(f"{rows:,} rows in {taken:.0f} s ({speed:.0f}/s): peak {peak:.0f} MB, ledger {size:.0f} MB on disk")
    return peak <= 400


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["DFILTER_HOME"] = home
        os.environ.pop("OPENAI_API_KEY", None)
        sys.exit(0 if (memory(options.rows) if options.memory else rates(options.turns)) else 1)
