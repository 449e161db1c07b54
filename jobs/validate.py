"""Check a whole MEDS data set and print a table of findings; exit code 1 where it is refused.

ray job submit --working-dir . -- python jobs/validate.py --data.root DIR
"""

from cvmae.command_line import run_job
from cvmae.validate.validate import validate

if __name__ == "__main__":
    run_job(validate)
