"""Pretrain one model under one masking policy.

ray job submit --working-dir . -- python jobs/pretrain.py --data.root DIR --output_dir OUT
"""

from cvmae.command_line import run_job
from cvmae.train.pretrain import pretrain

if __name__ == "__main__":
    run_job(pretrain, resumes=True)
