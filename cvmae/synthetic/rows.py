"""Subjects of the synthetic hospital as MEDS rows: laboratory rows, what surrounds them, labels."""

import numpy as np
import pyarrow as pa
from scipy.special import ndtr

from cvmae.arrays import Bools, Floats, Ints
from cvmae.synthetic.process import DEATH, SyntheticConfig, code_laws, uniforms
from cvmae.synthetic.subjects import Labs, Subjects

__all__ = ["LABEL_SCHEMA", "ROW_SCHEMA", "assemble_labels", "assemble_rows", "describe_codes"]

# Shape letters beside those of `cvmae.arrays`: N laboratory rows, O other rows beside them,
# T stays, R all rows.
ROW_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
    ]
)
LABEL_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),
    ]
)
MINUTE_US = 60_000_000
LABEL_MINUTES = 24 * 60  # the outcome is asked for 24 h after the last admission
FIXED_CODES = (
    "GENDER//F",
    "GENDER//M",
    "MEDS_BIRTH",
    "HOSPITAL_ADMISSION//EMERGENCY",
    "HOSPITAL_DISCHARGE//HOME",
    "MEDS_DEATH",
)
FEMALE_CODE, MALE_CODE, BIRTH, ADMISSION, DISCHARGE, DEATH_CODE = range(6)
DIAGNOSES = tuple(f"DIAGNOSIS//ICD//10//{letter}{n:02d}" for letter in "AIJKNR" for n in range(10))
DRUGS = tuple(f"MEDICATION//{n:03d}//Administered" for n in range(40))
CHART_SHARE, DIAGNOSIS_SHARE = 0.25, 0.35  # of other rows; the rest are drugs
# Streams of random numbers of a subject (see `synthetic_subjects`).
FEMALE, AGE, DIES, OTHER, OTHER_KIND, OTHER_CODE = range(100, 106)


def assemble_rows(config: SyntheticConfig, ids_S: Ints, subjects: Subjects) -> pa.Table:
    """Return all rows of the subjects, sorted by subject and time, null times first."""
    labs, num_labs = subjects.labs, len(subjects.labs.code_N)
    offsets_S, subject_N = labs.offsets_S, labs.subject_N
    # Places of rows in the final order: a subject's laboratory rows have one each, with room
    # for its first rows before them; rows of one place stay in the order they are given here.
    place_N = np.arange(num_labs) + subject_N + 1
    place_S = offsets_S[:-1] + np.arange(len(ids_S))
    first_T, last_T = _stays(subjects)
    other_O, other_code_O = _other_rows(config, subjects)
    base = len(FIXED_CODES)
    ending_T = _endings(subjects, last_T)
    zeros_S = np.zeros(len(ids_S), dtype=np.int64)
    female_S = uniforms(subjects.key_S, FEMALE, zeros_S) < 0.5
    years_S = 18 + 72 * uniforms(subjects.key_S, AGE, zeros_S)
    born_S = subjects.draws.minutes_D[subjects.draws.offsets_S[:-1]]
    born_S = born_S - (years_S * 365.25 * 1440).astype(np.int64)
    admitted_T = subjects.draws.stay_minutes_D[labs.draw_N[first_T]]
    arange_S = np.arange(len(ids_S))
    # Columns of each kind of row: place, subject, minutes, code, value's laboratory row or -1.
    kinds = [
        (place_S, arange_S, zeros_S, np.where(female_S, FEMALE_CODE, MALE_CODE), zeros_S - 1),
        (place_S, arange_S, born_S, zeros_S + BIRTH, zeros_S - 1),
        _event(place_N[first_T], subject_N[first_T], admitted_T, ADMISSION),
        (place_N, subject_N, labs.minutes_N, labs.code_N + base, np.arange(num_labs)),
        (place_N[other_O], subject_N[other_O], labs.minutes_N[other_O], other_code_O, other_O),
        _event(place_N[last_T], subject_N[last_T], labs.minutes_N[last_T] + 1, ending_T),
    ]
    place_R, subject_R, minutes_R, code_R, source_R = map(np.concatenate, zip(*kinds, strict=True))
    is_static_R = np.arange(len(place_R)) < len(ids_S)
    order_R = np.argsort(place_R, kind="stable")  # a merge of sorted runs: cheap
    code_R, source_R = code_R[order_R], source_R[order_R]
    # Only laboratory rows and their copies on ICU charts have a value.
    codes = _vocabulary(config)
    num_valued = base + len(code_laws(config).codes) * 2
    valued_R = (source_R >= 0) & (code_R >= base) & (code_R < num_valued)
    if num_labs:
        valued_R &= ~labs.null_N[source_R]
        value_R = labs.value_N[source_R]
    else:
        value_R = np.zeros(len(code_R), dtype=np.float32)
    time_R = pa.array(minutes_R[order_R] * MINUTE_US, pa.timestamp("us"), mask=is_static_R[order_R])
    code = pa.DictionaryArray.from_arrays(code_R.astype(np.int32), pa.array(codes))
    return pa.Table.from_arrays(
        [
            pa.array(ids_S[subject_R[order_R]]),
            time_R,
            code.cast(pa.string()),
            pa.array(value_R, pa.float32(), mask=~valued_R),
        ],
        schema=ROW_SCHEMA,
    )


def assemble_labels(ids_S: Ints, subjects: Subjects) -> pa.Table:
    """Return whether each subject dies, asked 24 h after its last admission.

    Subjects whose record does not reach that hour have no label.
    """
    offsets_S = subjects.labs.offsets_S
    some_S = np.flatnonzero(np.diff(offsets_S))
    last_S = offsets_S[some_S + 1] - 1
    admitted_S = subjects.draws.stay_minutes_D[subjects.labs.draw_N[last_S]]
    asked_S = admitted_S + LABEL_MINUTES
    in_time_S = asked_S < subjects.labs.minutes_N[last_S]
    columns = [
        pa.array(ids_S[some_S][in_time_S]),
        pa.array(asked_S[in_time_S] * MINUTE_US, pa.timestamp("us")),
        pa.array(_dies(subjects)[some_S][in_time_S]),
    ]
    return pa.Table.from_arrays(columns, schema=LABEL_SCHEMA)


def describe_codes(config: SyntheticConfig) -> pa.Table:
    """Return the table of codes that MEDS asks for; each laboratory code has a name of its own."""
    codes, panel_C = _vocabulary(config), code_laws(config).panel_C
    labs = [f"Synthetic lab {c + 1}, Panel {panel + 1}" for c, panel in enumerate(panel_C)]
    described = ["synthetic fixed"] * len(FIXED_CODES)
    described += [*labs, *(f"{lab}, copy on an ICU chart" for lab in labs)]
    described += ["synthetic diagnosis"] * len(DIAGNOSES) + ["synthetic drug"] * len(DRUGS)
    parents = pa.nulls(len(codes), pa.list_(pa.string()))
    return pa.table({"code": codes, "description": described, "parent_codes": parents})


def _vocabulary(config: SyntheticConfig) -> list[str]:
    laws = code_laws(config)
    # ICU chart events of MIMIC also begin with LAB//, and repeat hospital laboratory values.
    charts = [f"LAB//{220_000 + c}//{unit}" for c, unit in enumerate(laws.units)]
    return [*FIXED_CODES, *laws.codes, *charts, *DIAGNOSES, *DRUGS]


def _event(
    place_T: Ints, subject_T: Ints, minutes_T: Ints, code: "Ints | int"
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    zeros_T = np.zeros(len(place_T), dtype=np.int64)
    return place_T, subject_T, minutes_T, zeros_T + code, zeros_T - 1


def _stays(subjects: Subjects) -> tuple[Ints, Ints]:
    """Return the first and last laboratory row of each hospital stay that has any."""
    labs = subjects.labs
    began_N = subjects.draws.stay_minutes_D[labs.draw_N]
    changes_N = np.diff(began_N, prepend=-1) != 0
    changes_N |= np.diff(labs.subject_N, prepend=-1) != 0
    first_T = np.flatnonzero(changes_N)
    return first_T, np.append(first_T[1:], len(changes_N))[: len(first_T)] - 1


def _endings(subjects: Subjects, last_T: Ints) -> Ints:
    """Return the code that ends each stay: the last one of those who die ends in death."""
    subject_T = subjects.labs.subject_N[last_T]
    final_T = last_T + 1 == subjects.labs.offsets_S[subject_T + 1]
    return np.where(final_T & _dies(subjects)[subject_T], DEATH_CODE, DISCHARGE)


def _dies(subjects: Subjects) -> Bools:
    chance_S: Floats = ndtr(DEATH[0] + DEATH[1] * subjects.severity_S)
    drawn_S = uniforms(subjects.key_S, DIES, np.zeros(len(chance_S), dtype=np.int64))
    return np.asarray(drawn_S < chance_S)


def _other_rows(config: SyntheticConfig, subjects: Subjects) -> tuple[Ints, Ints]:
    """Return rows that are no laboratory rows: the row each stands beside, and its code."""
    labs: Labs = subjects.labs
    rate = config.other_row_share / (1 - config.other_row_share)
    num_N = (rate + uniforms(labs.key_N, OTHER, labs.number_N)).astype(np.int64)
    other_O = np.repeat(np.arange(len(num_N)), num_N)
    turn_O = np.arange(len(other_O)) - (np.cumsum(num_N) - num_N)[other_O]
    key_O = labs.key_N[other_O]
    number_O = labs.number_N[other_O] * (int(rate) + 1) + turn_O
    kind_O = uniforms(key_O, OTHER_KIND, number_O)
    pick_O = uniforms(key_O, OTHER_CODE, number_O)
    base = len(FIXED_CODES) + 2 * config.num_codes
    chart_O = len(FIXED_CODES) + config.num_codes + labs.code_N[other_O]
    diagnosis_O = base + (pick_O * len(DIAGNOSES)).astype(np.int64)
    drug_O = base + len(DIAGNOSES) + (pick_O * len(DRUGS)).astype(np.int64)
    code_O = np.where(kind_O < CHART_SHARE + DIAGNOSIS_SHARE, diagnosis_O, drug_O)
    return other_O, np.where(kind_O < CHART_SHARE, chart_O, code_O)
