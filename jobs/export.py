r"""Write a model as one folder that can be handed on, without what only its training needs.

ray job submit --working-dir . -- python jobs/export.py --infer.checkpoint RUN_DIR \
    --output_dir OUT
"""

from cvmae.command_line import main

if __name__ == "__main__":
    main("export")
