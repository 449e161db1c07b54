r"""Pretrain every policy x epochs x axes x seed side by side.

ray job submit --working-dir . -- python jobs/sweep.py --base small --data.root DIR \
    --sweep.policies random cv --sweep.epochs 10 --sweep.seeds 0 1 --output_dir OUT
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("sweep")
