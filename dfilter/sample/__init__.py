"""A pool of instruction rows in which known faults are planted: the measuring instrument for strategies.

from dfilter.sample import generate, faults_kept
sample = generate(rows=2000, seed=0)
faults_kept(sample.truth, kept_ids)
"""

from __future__ import annotations

from dfilter.sample.faults import RATES, FaultKept, faults_kept
from dfilter.sample.pool import FAMILIES, SamplePool, generate, read_truth, write

__all__ = ["FAMILIES", "RATES", "FaultKept", "SamplePool", "faults_kept", "generate", "read_truth", "write"]
