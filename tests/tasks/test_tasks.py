"""The task files, as ACES reads them: ten made-up stays in both dialects, and real ones."""

import datetime
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cvmae.meds.labels import read_labels, read_tasks

pytest.importorskip("aces")

TASKS = sorted((Path(__file__).resolve().parents[2] / "cvmae" / "tasks").glob("*.yaml"))
START = datetime.datetime(2150, 1, 1)  # noqa: DTZ001
IN, OUT, DEAD = "HOSPITAL_ADMISSION//EW EMER.//ER", "HOSPITAL_DISCHARGE//HOME", "MEDS_DEATH"
DIED = "HOSPITAL_DISCHARGE//DIED"
ICU, LEFT = "ICU_ADMISSION//MICU", "ICU_DISCHARGE//MICU"

# Hours since the first admission to the hospital; the ICU follows at hour 1, where it does.
STAYS = {
    1: [(0, IN), (1, ICU), (72, LEFT), (72, DIED), (72, DEAD)],  # dies as it leaves the ICU
    2: [(0, IN), (1, ICU), (70, LEFT), (71, DIED), (71, DEAD)],  # dies on the ward
    3: [(0, IN), (1, ICU), (60, LEFT), (100, OUT), (340, IN), (400, OUT), (1540, "LATER")],
    4: [(0, IN), (10, OUT), (480, IN), (528, DIED), (528, DEAD)],  # leaves early, dies later
    5: [(0, IN), (1, ICU), (55, LEFT), (60, OUT)],  # nothing is known of it afterwards
    6: [(0, IN), (1, ICU), (55, LEFT), (60, OUT), (480, DEAD)],  # dies at home
    7: [(0, IN), (1, ICU), (41, LEFT), (90, OUT), (2160, "LATER")],
    8: [
        (0, IN),
        (1, ICU),
        (72, DEAD),
        (85, LEFT),
        (85, DIED),
    ],  # of whose death only the day is known
    9: [(0, IN), (1, ICU), (75, DEAD)],  # never discharged
    10: [(0, IN), (1, ICU), (100, "LATER")],  # still there
}
# Task -> (subject, hour of the prediction) -> outcome; who is not named has no label.
EXPECTED = {
    "in_hospital_mortality_24h": {
        (1, 24): True, (2, 24): True, (3, 24): False, (3, 364): False, (4, 504): True,
        (5, 24): False, (6, 24): False, (7, 24): False, (8, 24): True, (9, 24): True,
    },
    "in_hospital_mortality_48h": {
        (1, 48): True, (2, 48): True, (3, 48): False, (3, 388): False,
        (5, 48): False, (6, 48): False, (7, 48): False, (8, 48): True, (9, 48): True,
    },
    "in_icu_mortality_24h": {
        (1, 25): True, (2, 25): False, (3, 25): False,
        (5, 25): False, (6, 25): False, (7, 25): False, (8, 25): True, (9, 25): True,
    },
    "in_icu_mortality_48h": {
        (1, 49): True, (2, 49): False, (3, 49): False,
        (5, 49): False, (6, 49): False, (8, 49): True, (9, 49): True,
    },
    "readmission_30d": {
        (3, 100): True, (3, 400): False, (4, 10): True,
        (5, 60): False, (6, 60): False, (7, 90): False,
    },
}  # fmt: skip


def lab(dialect, hour):
    """A laboratory value as either version of the ETL for MIMIC-IV writes it."""
    if dialect == "LAB//ITEM":
        return [(hour, "LAB//50912//mg/dL", 1.1)]
    stored = (hour + 1, "LAB//RESULT//50912//mg/dL", 1.1)
    return [(hour, "LAB//SPECIMEN_COLLECTED//50912", None), stored]


def write_stays(root, dialect):
    rows = []
    for subject, stay in STAYS.items():
        events = [(hour, code, None) for hour, code in stay if code != "LATER"]
        for hour in (10, *(hour for hour, code in stay if code == "LATER")):
            events += lab(dialect, hour)
        rows += [(subject, None, "GENDER//M", None)]
        rows += [(subject, datetime.datetime(2090, 1, 1), "MEDS_BIRTH", None)]  # noqa: DTZ001
        rows += [
            (subject, START + datetime.timedelta(hours=hour), code, value)
            for hour, code, value in sorted(events, key=lambda event: event[0])
        ]
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    path = root / "data" / "train" / "0.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    return path


def labels_of(task, shard):
    """Run ACES on a shard; its configuration is loaded anew, since a query changes its offsets."""
    from aces import config, predicates, query
    from omegaconf import DictConfig

    loaded = config.TaskExtractorConfig.load(str(task))
    frame = predicates.get_predicates_df(
        loaded, DictConfig({"path": str(shard), "standard": "meds"})
    )
    found = query.query(loaded, frame)
    if not found.height:
        return {}
    columns = found["subject_id"], found["index_timestamp"], found["label"]
    return {(s, t): bool(v) for s, t, v in zip(*columns, strict=True)}


def test_there_is_a_file_for_each_outcome():
    assert [task.stem for task in TASKS] == sorted(EXPECTED)


@pytest.mark.parametrize("dialect", ["LAB//ITEM", "LAB//RESULT"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.stem)
def test_ten_stays_have_the_outcomes_that_a_person_gives_them(tmp_path, task, dialect):
    found = labels_of(task, write_stays(tmp_path, dialect))
    hours = {(s, (time - START).total_seconds() / 3600): v for (s, time), v in found.items()}
    assert hours == EXPECTED[task.stem]


@pytest.mark.slow
def test_what_the_command_of_aces_writes_is_read_as_it_is(tmp_path):
    """By the line that the page on tasks shows."""
    write_stays(tmp_path, "LAB//RESULT")
    task = next(task for task in TASKS if task.stem == "readmission_30d")
    command = [
        str(Path(sys.executable).parent / "aces-cli"),
        f"cohort_name={task.stem}",
        f"cohort_dir={tmp_path / 'labels'}",
        f"config_path={task}",
        "data=sharded",
        "data.standard=meds",
        f"data.root={tmp_path / 'data'}",
        "data.shard=train/0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (labels,) = read_tasks(str(tmp_path / "labels"))
    assert (labels.name, labels.kind) == (task.stem, "boolean")
    expected = sorted(EXPECTED[task.stem].items())
    assert list(zip(labels.subject_id_L.tolist(), labels.value_L.tolist(), strict=True)) == [
        (subject, float(outcome)) for (subject, _), outcome in expected
    ]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.stem)
def test_the_outcomes_of_real_stays_are_those_of_their_labels(real_data, task):
    root = real_data / "mimic4_demo_full"
    found = {}
    for shard in sorted((root / "data").rglob("*.parquet")):
        found |= labels_of(task, shard)
    labels = read_labels(str(root / "labels" / task.stem))
    epoch = datetime.datetime(1970, 1, 1)  # noqa: DTZ001
    times = [epoch + datetime.timedelta(microseconds=t) for t in labels.time_us_L.tolist()]
    moments = zip(labels.subject_id_L.tolist(), times, strict=True)
    expected = dict(zip(moments, labels.value_L, strict=True))
    assert found == expected
