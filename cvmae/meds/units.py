"""The units into which the shards of a data set are cut."""

from dataclasses import dataclass, field

from cvmae.meds.dataset import Dataset, Shard

__all__ = ["Piece", "Unit", "plan_units"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Row groups of one shard, and the subjects in them that belong to the unit."""

    path: str  # below root, with "/"
    first_row_group: int
    last_row_group: int  # inclusive
    first_subject: int = field(repr=False)
    last_subject: int = field(repr=False)  # inclusive


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A contiguous range of subjects that one task reads."""

    pieces: tuple[Piece, ...]
    num_rows: int  # about: a subject across two row groups counts with the later unit's


def plan_units(dataset: Dataset, unit_rows: int) -> tuple[Unit, ...]:
    """Cut a data set into units of about `unit_rows` rows, none within a subject.

    Small shards share a unit; large ones are cut between row groups (a row group is never
    decoded for two units, except where a subject runs across its edge). Depends on the footers
    and `unit_rows` only.
    """
    units: list[Unit] = []
    pieces: list[Piece] = []
    num_rows = 0
    for shard in dataset.shards:
        begin = 0
        for place, row_group in enumerate(shard.row_groups):
            full = num_rows + row_group.num_rows - unit_rows > unit_rows - num_rows
            # Within a shard only where the next row group holds a subject of its own.
            if full and num_rows and (place == 0 or _last(shard, place) > _last(shard, place - 1)):
                pieces += _piece(shard, begin, place)
                units.append(Unit(pieces=tuple(pieces), num_rows=num_rows))
                pieces, num_rows, begin = [], 0, place
            num_rows += row_group.num_rows
        pieces += _piece(shard, begin, len(shard.row_groups))
    if pieces:
        units.append(Unit(pieces=tuple(pieces), num_rows=num_rows))
    return tuple(units)


def _last(shard: Shard, place: int) -> int:
    return shard.row_groups[place].last_subject


def _piece(shard: Shard, begin: int, end: int) -> list[Piece]:
    """Return the piece that owns the subjects that are new in row groups [begin, end)."""
    if begin == end:
        return []
    groups = shard.row_groups
    first, last = groups[begin].first_subject, groups[end - 1].last_subject
    if begin and groups[begin - 1].last_subject == first:
        first += 1  # runs over the edge: it belongs to the unit before
    while end < len(groups) and groups[end].first_subject == last:
        end += 1  # likewise ours
    return [
        Piece(
            path=shard.path,
            first_row_group=groups[begin].index,
            last_row_group=groups[end - 1].index,
            first_subject=first,
            last_subject=last,
        )
    ]
