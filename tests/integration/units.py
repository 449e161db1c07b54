"""What actors do in tests: classes of a module, which every process can import."""

import os
from pathlib import Path


class Doubler:
    """Doubles numbers, and leaves a line where it was made and for each number.

    Args:
        folder: Of the lines.
        kills: The number that ends the process, `times` times.
        times: See `kills`.
        refuses: The number that is refused.
        unready: What happens where one is made: "dies" or "fails".
    """

    def __init__(
        self, folder: str, kills: int = -1, times: int = 1000, refuses: int = -1, unready: str = ""
    ) -> None:
        self.folder, self.kills, self.times, self.refuses = Path(folder), kills, times, refuses
        self._note("made", os.getpid())
        if unready == "dies":
            os._exit(1)
        if unready == "fails":
            raise RuntimeError("CUDA out of memory\nmore lines")

    def __call__(self, number: int) -> tuple[int, int]:
        self._note("unit", number)
        if number == self.refuses:
            raise ValueError(f"{number} is refused")
        if number == self.kills and self.noted("unit").count(number) <= self.times:
            os._exit(1)
        return 2 * number, os.getpid()

    def _note(self, kind: str, number: int) -> None:
        with (self.folder / kind).open("a", encoding="ascii") as file:
            file.write(f"{number}\n")

    def noted(self, kind: str) -> list[int]:
        return [int(line) for line in (self.folder / kind).read_text("ascii").splitlines()]
