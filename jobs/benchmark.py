"""Measure cvmae against ceilings taken in the same run, and print a table.

ray job submit --working-dir . -- python jobs/benchmark.py --suite data --output $RUNS/data.json
"""

import os
import sys
from pathlib import Path

# Measuring is no part of the installed package; processes that this one starts look there, too.
ROOT = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

from benchmarks.benchmark import benchmark, benchmark_asked  # noqa: E402
from benchmarks.settings import BenchmarkConfig  # noqa: E402
from cvmae.command_line import run_job  # noqa: E402

if __name__ == "__main__":
    run_job(benchmark, tree=BenchmarkConfig, asks=benchmark_asked)
