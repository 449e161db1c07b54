r"""Train a pretrained encoder and a head with labels, and predict held_out.

ray job submit --working-dir . -- python jobs/finetune.py --data.root DIR --output_dir OUT \
    --finetune.checkpoint RUN --finetune.labels DIR/labels/TASK
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("finetune")
