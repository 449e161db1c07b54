"""Pretrain one model under one masking policy.

ray job submit --working-dir . -- python jobs/pretrain.py --data.root DIR --output_dir OUT
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("pretrain")
