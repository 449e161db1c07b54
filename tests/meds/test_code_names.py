"""Codes in words: what metadata/codes.parquet says, and how it is shortened."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.meds.code_names import code_names, short_names
from cvmae.synthetic.hospital import read_synthetic_config
from cvmae.synthetic.process import code_laws

PLACE = "metadata/codes.parquet"
LACTATE, GLUCOSE, URINE = "LAB//50813//mmol/L", "LAB//50809//mg/dL", "LAB//51084//mg/dL"


@pytest.fixture
def root(write_meds):
    return write_meds({}, {})


def write_names(root, codes, names, kind=None):
    table = pa.table({"code": codes, "description": pa.array(names, kind), "parent_codes": codes})
    pq.write_table(table, Path(root) / PLACE)


def test_names_are_read_for_the_codes_that_have_one(root):
    write_names(root, [LACTATE, GLUCOSE, URINE], ["Lactate, Blood\n", None, "Glucose, Urine"])
    assert code_names(root, [LACTATE, GLUCOSE]) == {LACTATE: "Lactate, Blood"}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()])
def test_names_are_read_whatever_strings_they_are(root, kind):
    write_names(root, [LACTATE], ["Lactate"], kind)
    assert code_names(root, [LACTATE]) == {LACTATE: "Lactate"}


def test_a_data_set_without_the_table_has_no_names(root):
    assert code_names(root, [LACTATE]) == {}


@pytest.mark.parametrize("broken", ["damaged", "of numbers", "without the column", "a folder"])
def test_a_table_that_cannot_be_used_gives_no_names_and_stops_nothing(root, broken, caplog):
    place = Path(root) / PLACE
    if broken == "damaged":
        place.write_bytes(b"PAR1")
    elif broken == "of numbers":
        write_names(root, [LACTATE], [3])
    elif broken == "a folder":
        place.mkdir()
    else:
        pq.write_table(pa.table({"code": [LACTATE]}), place)
    with caplog.at_level(logging.WARNING, "cvmae"):
        assert code_names(root, [LACTATE]) == {}
    assert (PLACE in caplog.text) == (broken == "damaged")


def test_a_short_name_is_as_long_as_it_takes_to_tell_it_from_the_others():
    names = {
        LACTATE: "Lactate, Blood, Blood Gas",
        GLUCOSE: "Glucose, Blood",
        URINE: "Glucose, Urine",
    }
    shown = short_names(names, names)
    assert list(shown.values()) == [
        "Lactate mmol/L",
        "Glucose, Blood mg/dL",
        "Glucose, Urine mg/dL",
    ]
    assert short_names([LACTATE], names, unit=False) == {LACTATE: "Lactate"}
    assert short_names([URINE], {URINE: "H, Blood"}, unit=False) == {URINE: "H, Blood"}


def test_a_name_that_stands_for_two_codes_is_shown_with_the_code():
    same = dict.fromkeys([GLUCOSE, URINE], "Glucose, Blood")
    assert list(short_names(same, same).values()) == [
        "Glucose (50809 mg/dL)",
        "Glucose (51084 mg/dL)",
    ]


def test_a_code_without_a_name_is_shown_by_its_parts():
    assert short_names([LACTATE, "HR"], {}) == {LACTATE: "50813 mmol/L", "HR": "HR"}


def test_long_names_are_cut_and_stay_unlike_each_other():
    names = {LACTATE: "a" * 60 + "1", GLUCOSE: "a" * 60 + "2", URINE: "b" * 60}
    shown = short_names(names, names, unit=False)
    assert len(set(shown.values())) == 3
    assert shown[URINE] == "b" * 37 + "..."


def test_every_laboratory_code_of_the_synthetic_hospital_has_a_name_of_its_own(hospital):
    codes = code_laws(read_synthetic_config(hospital)).codes
    names = code_names(hospital, codes)
    assert set(names) == set(codes)
    assert len(set(names.values())) == len(codes)


@pytest.mark.parametrize("name", ["physionet2012", "mimic4_demo_labs"])
def test_laboratory_codes_of_real_data_are_shown_in_words(real_data, name):
    codes = pq.read_table(real_data / name / PLACE).column("code").to_pylist()
    labs = [code for code in codes if code.startswith("LAB//")]
    shown = short_names(labs, code_names(str(real_data / name), labs))
    assert len(set(shown.values())) == len(labs)
    numbers = {code: code.split("//")[1] for code in labs if code.split("//")[1].isdigit()}
    assert not [text for code, text in shown.items() if text.startswith(numbers.get(code, "//"))]
