"""Whether this process is that of a job which was submitted with its working folder."""

from pathlib import Path

__all__ = ["runs_in_a_copy"]

# The folder below which Ray unpacks working folders; none of its public functions says so.
COPIES = "working_dir_files"


def runs_in_a_copy() -> bool:
    """Tell whether the present folder is Ray's copy of one, which Ray removes when it likes."""
    return COPIES in Path.cwd().parts
