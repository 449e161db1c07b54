r"""Write a public source as a MEDS data set.

ray job submit --working-dir . -- python jobs/convert.py --source physionet2012 \
    --input DIR --output DIR
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("convert")
