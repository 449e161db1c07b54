import numpy as np

from cvmae.evaluate.downstream.subject_groups import label_groups, read_facts
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import Labels
from cvmae.settings import ScalingConfig

YEAR = int(365.2425 * 86_400e6)


def groups_of(root, *moments, unit_rows=250_000):
    subject_L, time_L = (np.array(column, np.int64) for column in zip(*moments, strict=True))
    labels = Labels(
        name="task",
        kind="boolean",
        subject_id_L=subject_L,
        time_us_L=time_L,
        value_L=np.zeros(len(moments)),
    )
    scaling = ScalingConfig(num_workers=0)
    facts = read_facts(open_dataset(root), scaling=scaling, unit_rows=unit_rows)
    return {kind: level_L.tolist() for kind, level_L in label_groups(facts, labels).items()}


def test_groups_are_static_codes_and_the_age_at_the_first_prediction(write_meds):
    rows = {
        "0.parquet": [
            (1, None, "GENDER//F", None),
            (1, None, "RACE//A//B", None),
            (1, None, "RACE//C", None),
            (1, 0, "MEDS_BIRTH", None),
            (1, 50 * YEAR, "GENDER//M", None),
            (2, None, "GENDER//M", None),
            (2, None, "DONOR", None),
        ],
        "1.parquet": [(3, 10 * YEAR, "MEDS_BIRTH", None), (3, 60 * YEAR, "LAB//a", 1.0)],
    }
    root = write_meds(rows, dict.fromkeys((1, 2, 3), "train"))
    # Of ages 81 and 17 all labels are those of a subject of 17: groups must not overlap.
    moments = ((1, 81 * YEAR), (1, 17 * YEAR), (2, YEAR), (3, 60 * YEAR))
    expected = {
        "age": ["under 18", "under 18", "not recorded", "45 to 64"],
        "DONOR": ["not recorded", "not recorded", "yes", "not recorded"],
        "GENDER": ["F", "F", "M", "not recorded"],
        "RACE": ["A//B", "A//B", "not recorded", "not recorded"],
    }
    assert groups_of(root, *moments) == expected
    assert groups_of(root, *moments, unit_rows=1) == expected


def test_rare_levels_of_a_kind_count_together(write_meds):
    shards = {"0.parquet": [(s, None, f"WARD//{s if s > 6 else 0}", None) for s in range(1, 31)]}
    root = write_meds(shards, dict.fromkeys(range(1, 31), "train"))
    levels = groups_of(root, *((s, 0) for s in range(1, 31)))["WARD"]
    assert levels.count("0") == 6
    assert levels.count("other") == 24 - 11
