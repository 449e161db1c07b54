"""Fit code statistics, vocabulary and unit index on train.

ray job submit --working-dir . -- python jobs/fit_statistics.py --data.root DIR --output_dir OUT
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("fit_statistics")
