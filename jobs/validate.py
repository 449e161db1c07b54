"""Check a whole MEDS data set and print a table of findings; exit code 1 where it is refused.

ray job submit --working-dir . -- python jobs/validate.py --data.root DIR
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("validate")
