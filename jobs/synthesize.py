"""Write a synthetic hospital (made-up data with known truth) as a MEDS data set.

ray job submit --working-dir . -- python jobs/synthesize.py --root DIR --num_subjects 1000
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("synthesize")
