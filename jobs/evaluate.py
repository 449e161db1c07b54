r"""Compare checkpoints on the same hidden values of held_out, and write a report.

ray job submit --working-dir . -- python jobs/evaluate.py --data.root DIR --output_dir OUT \
    --evaluate.checkpoints random=A cv=B
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("evaluate")
