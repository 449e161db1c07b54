"""Measure cvmae against ceilings taken in the same run, and print a table.

ray job submit --working-dir . -- python jobs/benchmark.py --suite data --output benchmark.json
"""

import sys

from cvmae.benchmark.benchmark import main

if __name__ == "__main__":
    print(main(sys.argv[1:]))
