"""The variables of the PhysioNet/CinC Challenge 2012, and the MEDS codes they become."""

from typing import NamedTuple

import pyarrow as pa

__all__ = ["UNIT_TYPES", "VARIABLES", "Variable", "describe_codes"]


class Variable(NamedTuple):
    """A variable of the time series."""

    kind: str  # LAB or VITAL
    unit: str
    description: str
    loinc: str = ""

    def code(self, name: str) -> str:
        """Return its MEDS code."""
        return f"{self.kind}//{name}//{self.unit}"


# In the order in which values of one time stand: that of the files, whose names are longer.
VARIABLES: dict[str, Variable] = {
    "Height": Variable("VITAL", "cm", "Height"),
    "Albumin": Variable("LAB", "g/dL", "Albumin in serum or plasma", "1751-7"),
    "ALP": Variable("LAB", "IU/L", "Alkaline phosphatase in serum or plasma", "6768-6"),
    "ALT": Variable("LAB", "IU/L", "Alanine aminotransferase in serum or plasma", "1742-6"),
    "AST": Variable("LAB", "IU/L", "Aspartate aminotransferase in serum or plasma", "1920-8"),
    "pH": Variable("LAB", "UNK", "pH of arterial blood", "2744-1"),
    "Bilirubin": Variable("LAB", "mg/dL", "Bilirubin, total, in serum or plasma", "1975-2"),
    "BUN": Variable("LAB", "mg/dL", "Urea nitrogen in serum or plasma", "3094-0"),
    "Cholesterol": Variable("LAB", "mg/dL", "Cholesterol in serum or plasma", "2093-3"),
    "Creatinine": Variable("LAB", "mg/dL", "Creatinine in serum or plasma", "2160-0"),
    "DiasABP": Variable("VITAL", "mmHg", "Invasive diastolic arterial blood pressure"),
    "FiO2": Variable("VITAL", "fraction", "Fractional inspired oxygen"),
    "GCS": Variable("VITAL", "score", "Glasgow Coma Score"),
    "Glucose": Variable("LAB", "mg/dL", "Glucose in serum or plasma", "2345-7"),
    "HCO3": Variable("LAB", "mmol/L", "Bicarbonate in serum or plasma", "1963-8"),
    "HCT": Variable("LAB", "%", "Hematocrit of blood", "4544-3"),
    "HR": Variable("VITAL", "bpm", "Heart rate"),
    "Lactate": Variable("LAB", "mmol/L", "Lactate in blood", "32693-4"),
    "Mg": Variable(
        "LAB",
        "mmol/L",
        "Magnesium in serum or plasma (documented as mmol/L; magnitudes look like mg/dL)",
        "19123-9",
    ),
    "MAP": Variable("VITAL", "mmHg", "Invasive mean arterial blood pressure"),
    "MechVent": Variable(
        "VITAL", "bool", "Mechanical ventilation respiration (always 1 where present)"
    ),
    "NIDiasABP": Variable("VITAL", "mmHg", "Non-invasive diastolic arterial blood pressure"),
    "NIMAP": Variable("VITAL", "mmHg", "Non-invasive mean arterial blood pressure"),
    "NISysABP": Variable("VITAL", "mmHg", "Non-invasive systolic arterial blood pressure"),
    "Platelets": Variable("LAB", "cells/nL", "Platelets in blood", "777-3"),
    "K": Variable("LAB", "mEq/L", "Potassium in serum or plasma", "2823-3"),
    "PaCO2": Variable("LAB", "mmHg", "Carbon dioxide partial pressure, arterial", "2019-8"),
    "PaO2": Variable("LAB", "mmHg", "Oxygen partial pressure, arterial", "2703-7"),
    "Na": Variable("LAB", "mEq/L", "Sodium in serum or plasma", "2951-2"),
    "RespRate": Variable("VITAL", "bpm", "Respiration rate"),
    "SysABP": Variable("VITAL", "mmHg", "Invasive systolic arterial blood pressure"),
    "SaO2": Variable("LAB", "%", "Oxygen saturation in hemoglobin, arterial", "2708-6"),
    "Temp": Variable("VITAL", "C", "Temperature"),
    "TroponinT": Variable("LAB", "ug/L", "Troponin T, cardiac, in serum or plasma", "6598-7"),
    "TroponinI": Variable("LAB", "ug/L", "Troponin I, cardiac, in serum or plasma", "10839-9"),
    "Urine": Variable("VITAL", "mL", "Urine output"),
    "WBC": Variable("LAB", "cells/nL", "Leukocytes in blood", "6690-2"),
    "Weight": Variable("VITAL", "kg", "Weight"),
}
UNIT_TYPES = {
    1: "Coronary Care Unit",
    2: "Cardiac Surgery Recovery Unit",
    3: "Medical ICU",
    4: "Surgical ICU",
}
EVENTS = {
    "GENDER//F": "Female",
    "GENDER//M": "Male",
    "HOSPITAL_DISCHARGE//ALIVE": "Discharged alive (day granularity)",
    "HOSPITAL_DISCHARGE//DIED": "Death in hospital (day granularity)",
    "MEDS_BIRTH": "1 January of (2000 - age in years)",
    "MEDS_DEATH": "Death (day granularity)",
}


def describe_codes() -> pa.Table:
    """Return the table of codes that MEDS asks for, by code."""
    rows: dict[str, tuple[str, list[str] | None]] = {
        code: (description, None) for code, description in EVENTS.items()
    }
    for unit in UNIT_TYPES.values():
        rows[f"ICU_ADMISSION//{unit}"] = (f"ICU admission, unit type: {unit}", None)
    for name, variable in VARIABLES.items():
        parents = [f"LOINC/{variable.loinc}"] if variable.loinc else None
        rows[variable.code(name)] = (variable.description, parents)
    codes = sorted(rows)
    return pa.table(
        {
            "code": pa.array(codes, pa.string()),
            "description": pa.array([rows[code][0] for code in codes], pa.string()),
            "parent_codes": pa.array([rows[code][1] for code in codes], pa.list_(pa.string())),
        }
    )
