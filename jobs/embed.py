r"""Write an embedding for each subject and prediction time of a data set.

ray job submit --working-dir . -- python jobs/embed.py --infer.checkpoint RUN_DIR \
    --infer.labels DIR/labels --data.root DIR --output_dir OUT
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("embed")
