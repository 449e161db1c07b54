import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cvmae.command_line import run_job
from cvmae.config import PRESETS, override
from cvmae.convert import physionet2012
from cvmae.convert.convert import convert
from cvmae.convert.physionet2012_codes import UNIT_TYPES, VARIABLES, describe_codes
from cvmae.convert.settings import ConvertConfig
from cvmae.validate.validate import check
from tests.convert.challenge import DESCRIBED, write_challenge


def converted(root, output="meds", **settings):
    config = ConvertConfig(
        source="physionet2012", input=str(root), output=str(root / output), **settings
    )
    printed = convert(config)
    return root / output, printed


def rows_of(folder, subject):
    table = ds.dataset(folder / "data").to_table(filter=pc.field("subject_id") == subject)
    values = table["numeric_value"].to_pylist()
    times = [None if t is None else str(t)[:16] for t in table["time"].to_pylist()]
    return list(zip(times, table["code"].to_pylist(), values, strict=True))


def one(tmp_path, *lines, outcome="6,1,5,-1,0"):
    """Convert a set of one record; return its rows."""
    write_challenge(tmp_path, {7: (*DESCRIBED, *lines)}, {7: outcome})
    return rows_of(converted(tmp_path)[0], 7)


def test_a_record_becomes_rows_in_meds_order(tmp_path):
    found = one(tmp_path, "00:00,Weight,81.5", "00:07,HR,73", "48:00,pH,7.45")
    assert found == [
        (None, "GENDER//F", None),
        ("1946-01-01 00:00", "MEDS_BIRTH", None),
        ("2000-01-01 00:00", "ICU_ADMISSION//Surgical ICU", None),
        ("2000-01-01 00:00", "VITAL//Weight//kg", 81.5),
        ("2000-01-01 00:07", "VITAL//HR//bpm", 73.0),
        ("2000-01-03 00:00", "LAB//pH//UNK", pytest.approx(7.45)),
        ("2000-01-06 00:00", "HOSPITAL_DISCHARGE//ALIVE", None),
    ]


def test_lines_are_sorted_by_time_and_variable_and_values_of_one_time_keep_their_order(tmp_path):
    found = one(tmp_path, "10:00,WBC,9", "10:00,Na,140", "09:59,K,4", "10:00,Na,139")
    assert [row[1:] for row in found[3:-1]] == [
        ("LAB//K//mEq/L", 4.0),
        ("LAB//Na//mEq/L", 140.0),
        ("LAB//Na//mEq/L", 139.0),
        ("LAB//WBC//cells/nL", 9.0),
    ]


def test_unknown_descriptors_leave_no_row_and_minus_one_elsewhere_stays(tmp_path):
    lines = ["00:00,Gender,-1", "00:00,ICUType,1", "00:00,Age,-1", "00:00,Weight,-1"]
    write_challenge(tmp_path, {7: (*lines, "01:00,DiasABP,-1", "02:00,Weight,-1", "03:00,,-1")})
    folder, printed = converted(tmp_path)
    assert rows_of(folder, 7)[:-1] == [
        ("2000-01-01 00:00", "ICU_ADMISSION//Coronary Care Unit", None),
        ("2000-01-01 01:00", "VITAL//DiasABP//mmHg", -1.0),
    ]
    assert re.search(r"lines unknown height or weight +2\n", printed)
    assert re.search(r"lines without a parameter +1\n", printed)


def test_a_line_said_twice_is_one_row_and_counted(tmp_path):
    write_challenge(tmp_path, {7: (*DESCRIBED, *["05:00,MAP,80"] * 3, "05:00,MAP,81")})
    folder, printed = converted(tmp_path)
    assert [row[2] for row in rows_of(folder, 7)[3:-1]] == [80.0, 81.0]
    assert re.search(r"lines said twice +2\n", printed)


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        ("6,1,5,-1,0", [("2000-01-06 00:00", "HOSPITAL_DISCHARGE//ALIVE")]),
        (
            "6,1,9,575,0",
            [("2000-01-10 00:00", "HOSPITAL_DISCHARGE//ALIVE"), ("2001-07-29 00:00", "MEDS_DEATH")],
        ),
        # Who dies in hospital dies as the stay ends; both lie after every prediction time.
        (
            "6,1,6,5,1",
            [("2000-01-07 00:00", "HOSPITAL_DISCHARGE//DIED"), ("2000-01-07 00:00", "MEDS_DEATH")],
        ),
        (
            "6,1,2,2,1",
            [("2000-01-03 00:01", "HOSPITAL_DISCHARGE//DIED"), ("2000-01-03 00:01", "MEDS_DEATH")],
        ),
        (
            "6,1,-1,4,1",
            [("2000-01-05 00:00", "HOSPITAL_DISCHARGE//DIED"), ("2000-01-05 00:00", "MEDS_DEATH")],
        ),
        ("6,1,-1,-1,0", []),
        ("6,1,-1,40,0", [("2000-02-10 00:00", "MEDS_DEATH")]),
        (
            "6,1,9,8,0",
            [("2000-01-09 00:00", "MEDS_DEATH"), ("2000-01-10 00:00", "HOSPITAL_DISCHARGE//ALIVE")],
        ),
    ],
)
def test_stays_end_as_the_outcome_says(tmp_path, outcome, ends):
    assert [row[:2] for row in one(tmp_path, outcome=outcome)[3:]] == ends


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("01:00,HR", "three fields"),
        ("01:00,HR,73,bpm", "three fields"),
        ("1h,HR,73", "a time HH:MM"),
        ("01:60,HR,73", "a time HH:MM"),
        ("48:01,HR,73", "a time HH:MM"),
        ("-1:00,HR,73", "a time HH:MM"),
        ("01:00,HR,", "a finite number"),
        ("01:00,HR,nan", "a finite number"),
        ("01:00,Pulse,73", r"a parameter of the challenge \(RecordID, Age"),
        ("01:00,Age,55", "one Age a record"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path, line, expected):
    write_challenge(tmp_path, {7: (*DESCRIBED, "00:30,HR,70", line)})
    place = "set-a, file 1 of those that end in .txt, by name"
    message = rf"{place}, line 8, is malformed: expected .*{expected}"
    with pytest.raises(ValueError, match=message):
        converted(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("7,6,1,5,-1", "six whole numbers"),
        ("7,6,1,5,-1,yes", "six whole numbers"),
        ("7,6,1,5,-1,2", "to be 0 or 1"),
        ("7,6,1,5,-1,0\n7,6,1,5,-1,0", "each RecordID once"),
    ],
)
def test_a_malformed_outcome_is_named_with_its_file_and_number(tmp_path, outcome, expected):
    write_challenge(tmp_path, {7: DESCRIBED})
    table = tmp_path / "Outcomes-a.txt"
    table.write_text(table.read_text().splitlines()[0] + "\n" + outcome + "\n")
    number = 2 + outcome.count("\n")
    with pytest.raises(ValueError, match=rf"Outcomes-a\.txt, line {number}, is .*{expected}"):
        converted(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none of the folders set-a, set-b and set-c"):
        converted(tmp_path)
    write_challenge(tmp_path, {7: DESCRIBED, 8: DESCRIBED}, {7: "6,1,5,-1,0"})
    with pytest.raises(ValueError, match=r"1 of the records .* are not in Outcomes-a.txt: unpack"):
        converted(tmp_path)
    (tmp_path / "Outcomes-a.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Outcomes-a\.txt is not there"):
        converted(tmp_path)
    write_challenge(tmp_path / "more", {7: ["00:00,ICUType,9"]})
    with pytest.raises(ValueError, match=r"file 1 of .* says no ICUType that is known: 1, 2, 3, 4"):
        converted(tmp_path / "more")
    (tmp_path / "more" / "set-a" / "7.txt").write_text("Time,Parameter,Value\n00:00,RecordID,8\n")
    with pytest.raises(ValueError, match=r"file 1 of .* says another RecordID than its name"):
        converted(tmp_path / "more")
    (tmp_path / "more" / "set-a" / "7.txt").write_text("Hello\n")
    with pytest.raises(ValueError, match=r"file 1 of .*, line 1, is malformed: .*the header"):
        converted(tmp_path / "more")


def test_an_error_of_the_files_ends_the_command_with_one_line(tmp_path):
    write_challenge(tmp_path, {7: (*DESCRIBED, "01:00,HR,fast")})
    flags = ["--source", "physionet2012", "--input", str(tmp_path), "--output"]
    with pytest.raises(SystemExit, match=r"^cvmae: .*file 1 of .*, line 7, "):
        run_job(convert, [*flags, str(tmp_path / "meds")], tree=ConvertConfig)


def hundred(root):
    return write_challenge(
        root,
        {n: (*DESCRIBED, *(f"{h:02d}:00,HR,{60 + h}" for h in range(9))) for n in range(100, 400)},
        {n: f"6,1,5,-1,{int(n % 3 == 0)}" for n in range(100, 400)},
    )


def test_the_data_set_is_sound_sharded_and_labelled(tmp_path):
    folder, printed = converted(hundred(tmp_path), shard_subjects=100)
    found = check(override(PRESETS["tiny"], {"data.root": folder, "data.code_pattern": "^VITAL//"}))
    assert found.accepted, found.as_text()
    assert len(list((folder / "data" / "train").iterdir())) == 3
    splits = pq.read_table(folder / "metadata" / "subject_splits.parquet")
    count = dict(zip(*np.unique(splits["split"].to_pylist(), return_counts=True), strict=True))
    # Five standard errors of a binomial of 300.
    assert abs(count["train"] - 240) < 35
    for split, number in count.items():
        assert re.search(rf"subjects of {split} +{number}\n", printed)
        own = splits.filter(pc.equal(splits["split"], split))["subject_id"].to_pylist()
        for hours, when in ((24, "2000-01-02 00:00:00"), (48, "2000-01-03 00:00:00")):
            path = folder / "labels" / f"in_hospital_mortality_{hours}h" / split / "0.parquet"
            labels = pq.read_table(path)
            assert labels["subject_id"].to_pylist() == own
            assert labels["boolean_value"].to_pylist() == [n % 3 == 0 for n in own]
            assert set(map(str, labels["prediction_time"].to_pylist())) == {when}
        shards = ds.dataset(folder / "data" / split).to_table()["subject_id"].to_pylist()
        assert sorted(set(shards)) == own
    assert "ODC-By" in (folder / "NOTICE.md").read_text()


def test_splits_hang_on_seed_and_subject_alone_or_on_a_table(tmp_path):
    root = hundred(tmp_path)
    first, _ = converted(root)
    table = pq.read_table(first / "metadata" / "subject_splits.parquet")
    known = dict(zip(*(table[c].to_pylist() for c in ("subject_id", "split")), strict=True))
    few = write_challenge(tmp_path / "few", dict.fromkeys(range(150, 180), DESCRIBED))
    again = pq.read_table(converted(few)[0] / "metadata" / "subject_splits.parquet")
    assert again["split"].to_pylist() == [known[n] for n in range(150, 180)]
    other = pq.read_table(converted(root, "other", seed=1)[0] / "metadata/subject_splits.parquet")
    assert other["split"].to_pylist() != table["split"].to_pylist()
    given = str(first / "metadata" / "subject_splits.parquet")
    taken = converted(root, "taken", seed=1, splits=given)[0]
    assert pq.read_table(taken / "metadata" / "subject_splits.parquet").equals(table)
    pq.write_table(table.slice(10), tmp_path / "short.parquet")
    with pytest.raises(ValueError, match="for 10 of 300 records"):
        converted(root, "no", splits=str(tmp_path / "short.parquet"))
    with pytest.raises(ValueError, match="cannot be read as a table"):
        converted(root, "no", splits=str(tmp_path / "none.parquet"))


# --- against the shared set -----------------------------------------------------------------------


def rebuilt(source: Path, root: Path, shard: str) -> list[int]:
    """Write the raw records of a shard's subjects from its MEDS rows; return their ids."""
    table = pq.read_table(source / "data" / shard)
    names = {variable.code(name): name for name, variable in VARIABLES.items()}
    units = {f"ICU_ADMISSION//{name}": number for number, name in UNIT_TYPES.items()}
    start = np.datetime64("2000-01-01", "us")
    records: dict[int, list[str]] = {}
    outcomes: dict[int, list[int]] = {}
    columns = (table[name].to_pylist() for name in ("subject_id", "code", "numeric_value"))
    times = table["time"].to_numpy()
    for (subject, code, value), time in zip(zip(*columns, strict=True), times, strict=True):
        lines = records.setdefault(subject, [])
        stay = outcomes.setdefault(subject, [-1, -1, 0])
        minutes = 0 if np.isnat(time) else int((time - start) / np.timedelta64(1, "m"))
        if code in names:
            lines.append(f"{minutes // 60:02d}:{minutes % 60:02d},{names[code]},{value:.9g}")
        elif code in units:
            lines.append(f"00:00,ICUType,{units[code]}")
        elif code == "MEDS_BIRTH":
            lines.append(f"00:00,Age,{2000 - time.astype('datetime64[Y]').item().year}")
        elif code.startswith("GENDER"):
            lines.append(f"00:00,Gender,{'FM'.index(code[-1])}")
        elif code == "MEDS_DEATH":
            stay[1] = minutes // (24 * 60)
        else:
            stay[0], stay[2] = minutes // (24 * 60), int(code.endswith("DIED"))
    told = {n: f"0,0,{days},{death},{died}" for n, (days, death, died) in outcomes.items()}
    # Other orders than the data set's: lines of one time by name, the first ones shuffled.
    write_challenge(root, {n: lines[::-1] for n, lines in records.items()}, told)
    for n, lines in records.items():
        twice = {tuple(line.split(",")[:2]) for line in lines}
        if len(twice) < len(lines):  # values of one time and variable keep the order of the file
            (root / "set-a" / f"{n}.txt").write_text(
                "\n".join(["Time,Parameter,Value", f"00:00,RecordID,{n}", *lines]) + "\n"
            )
    return list(records)


@pytest.mark.real
@pytest.mark.parametrize("shard", ["held_out/1.parquet", "tuning/1.parquet"])
def test_rebuilt_records_of_the_shared_set_become_its_rows_again(real_data, tmp_path, shard):
    source = real_data / "physionet2012"
    subjects = rebuilt(source, tmp_path, shard)
    splits = str(source / "metadata" / "subject_splits.parquet")
    folder, _ = converted(tmp_path, splits=splits)
    split = shard.partition("/")[0]
    assert sorted(path.name for path in (folder / "data" / split).iterdir()) == ["0.parquet"]
    found = pq.read_table(folder / "data" / split / "0.parquet")
    expected = pq.read_table(source / "data" / shard)
    assert found.schema.equals(expected.schema)
    assert found.equals(expected)  # 176,000 rows, in the same order
    for hours in (24, 48):
        path = Path("labels", f"in_hospital_mortality_{hours}h", split, "0.parquet")
        shared = pq.read_table(source / path)
        own = shared.filter(pc.is_in(shared["subject_id"], pa.array(subjects)))
        assert pq.read_table(folder / path).equals(own)


@pytest.mark.real
def test_codes_are_described_as_in_the_shared_set(real_data):
    expected = pq.read_table(real_data / "physionet2012" / "metadata" / "codes.parquet")
    assert describe_codes().to_pylist() == expected.sort_by("code").to_pylist()


def test_a_record_that_is_gone_is_told_of_by_its_place_alone(tmp_path):
    for name in ("132539.txt", "132541.txt"):
        (tmp_path / name).touch()
    gone = tmp_path / "132540.txt"
    assert physionet2012._told(gone) == f"{tmp_path}, file 2 of those that end in .txt, by name"
