"""Pretrain and compare three masking policies on a synthetic hospital, in minutes.

ray job submit --working-dir . -- python jobs/demo.py --output_dir demo-run
"""

import sys

from cvmae.demo import main

if __name__ == "__main__":
    print(main(sys.argv[1:]))
