"""Why a data set is refused, in parts: the file, the rows, what is wrong, and what to do."""

from collections.abc import Sequence

__all__ = ["RefusedDataError"]


class RefusedDataError(ValueError):
    """Data that cannot be trained on: a file, rows of it, or the data set as a whole.

    Its text is one line made of the parts; whoever needs a part takes it from here.
    """

    def __init__(self, what: str, remedy: str, file: str = "", rows: Sequence[int] = ()) -> None:
        """Take the parts.

        Args:
            what: What is wrong; with a file or rows, the text goes on behind their name.
            remedy: What to do about it.
            file: Path below data.root; empty for the data set as a whole.
            rows: Rows of the file that it is true of, from 0; none for the file as a whole.
        """
        self.what, self.remedy, self.file, self.rows = what, remedy, file, tuple(rows)
        # The parts are the arguments, so that the exception can be sent between processes.
        super().__init__(what, remedy, file, self.rows)

    def __str__(self) -> str:
        """Return file, rows, what and remedy in one line."""
        place = f"{self.file} " if self.file else ""
        if self.rows:
            numbers = " and ".join(map(str, self.rows))
            place = f"{self.file}: row{'s' * (len(self.rows) > 1)} {numbers} (from 0) "
        return f"{place}{self.what}; {self.remedy}"
