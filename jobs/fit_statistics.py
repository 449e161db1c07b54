"""Fit code statistics, vocabulary and unit index on train.

ray job submit --working-dir . -- python jobs/fit_statistics.py --data.root DIR --output_dir OUT
"""

from cvmae.command_line import run_job
from cvmae.statistics.fit import fit_statistics

if __name__ == "__main__":
    run_job(fit_statistics)
