"""A note beside what is patient data, so that nobody passes it on for want of knowing."""

from cvmae.storage.folders import join, written

__all__ = ["NOTE", "write_notice"]

NOTE = "PATIENT_DATA.txt"
NOTICE = """\
{what} are patient data: subject ids, times, and numbers made from patients' measurements,
from which some of these can be guessed back. They stay under the terms of the data set that they
were made from: share and keep them as you would that data set.
"""


def write_notice(folder: str, what: str) -> None:
    """Say in a folder which of its files are patient data."""
    with written(join(folder, NOTE)) as aside:
        aside.write_text(NOTICE.format(what=what), encoding="utf-8")
