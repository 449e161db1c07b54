"""Pretrain and compare three masking policies on a synthetic hospital, in minutes.

ray job submit --working-dir . -- python jobs/demo.py --output_dir $RUNS/demo
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("demo")
