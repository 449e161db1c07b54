"""Say what a hospital costs on a cluster, each line with its arithmetic and its source.

ray job submit --working-dir . -- python jobs/plan.py --root DIR --num_gpus 64
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("plan")
