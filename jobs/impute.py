r"""Write the expected value, with an interval, of every row of a data set that has none.

ray job submit --working-dir . -- python jobs/impute.py --infer.checkpoint RUN_DIR \
    --data.root DIR --output_dir OUT
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("impute")
