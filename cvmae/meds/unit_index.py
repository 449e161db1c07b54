"""What each unit holds, known before anything is read: the order of every epoch follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Ints
from cvmae.meds.units import Piece, Unit

__all__ = ["UnitIndex"]


@dataclass(frozen=True, kw_only=True)
class UnitIndex:
    """What each unit holds of each split, known before anything is read."""

    units: tuple[Unit, ...]
    num_sequences: Mapping[str, Ints]  # split -> U counts
    num_measurements: Mapping[str, Ints]

    def write(self, path: str | Path) -> None:
        """Write one row a unit."""
        columns: dict[str, object] = {
            "num_rows": [unit.num_rows for unit in self.units],
            "pieces": [[vars(piece) for piece in unit.pieces] for unit in self.units],
        }
        for split in self.num_sequences:
            columns[f"{split}/num_sequences"] = self.num_sequences[split]
            columns[f"{split}/num_measurements"] = self.num_measurements[split]
        pq.write_table(pa.table(columns), path)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote."""
        table = pq.read_table(path)
        splits = [
            name.removesuffix("/num_sequences")
            for name in table.column_names
            if name.endswith("/num_sequences")
        ]
        return cls(
            units=tuple(
                Unit(
                    pieces=tuple(Piece(**piece) for piece in row["pieces"]),
                    num_rows=row["num_rows"],
                )
                for row in table.select(["pieces", "num_rows"]).to_pylist()
            ),
            num_sequences={s: table[f"{s}/num_sequences"].to_numpy() for s in splits},
            num_measurements={s: table[f"{s}/num_measurements"].to_numpy() for s in splits},
        )
