"""No subject id and no single value in what verbs print, log and write, but where it is said.

A hospital has ids and values that occur nowhere else by chance; every verb is run on it, also with
faults in the data, and all that comes out is searched.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import load_model
from cvmae.config import PRESETS, Config, override
from cvmae.convert.convert import convert
from cvmae.convert.settings import ConvertConfig
from cvmae.evaluate.evaluate import evaluate
from cvmae.infer.embed_set import embed
from cvmae.infer.export import export
from cvmae.infer.impute_set import impute
from cvmae.infer.notice import NOTE
from cvmae.statistics.fit import fit_statistics
from cvmae.sweep.driver import sweep
from cvmae.train.finetune import finetune
from cvmae.train.pretrain import pretrain
from cvmae.validate.validate import validate
from tests.convert.challenge import DESCRIBED, write_challenge
from tests.planted_secrets import (
    FIRST_SUBJECT,
    copied,
    found_in,
    heard,
    leaks,
    not_ascending,
    plant,
    search,
    secrets_of,
)
from tests.train.planted import planted_labels, write_labels

SETTINGS = {
    "data.min_count": 2,
    "data.unit_rows": 4000,
    "data.sequence_length": 32,
    "scaling.num_workers": 0,
    "train.epochs": 1,
    "finetune.epochs": 1,
    "evaluate.min_scored": 2,
    "evaluate.bootstrap_samples": 20,
    "sweep.policies": ["random"],
    "sweep.seeds": [0],
}


@pytest.fixture(scope="module")
def root(hospital, tmp_path_factory):
    """The hospital again, its subjects under other ids."""
    return plant(hospital, tmp_path_factory.mktemp("planted") / "meds")


@pytest.fixture(scope="module")
def written(root, tmp_path_factory):
    """Everything that all verbs write, and what they print and log."""
    folder = tmp_path_factory.mktemp("out")
    with heard() as said:
        results = _run_verbs(root, folder)
    return folder, "\n".join([said.getvalue(), *results])


def _run_verbs(root: Path, folder: Path) -> list[str]:
    """Run every verb that reads patients' data, and some on data with faults."""
    config = override(PRESETS["tiny"], {"data.root": root, **SETTINGS})
    labels = write_labels(
        folder.parent / "planted_labels" / "high.parquet", planted_labels(str(root))
    )

    def to(name: str, **changes: object) -> Config:
        return override(config, {"output_dir": folder / name, **changes})

    run = folder / "run"
    given = {
        evaluate: {"evaluate.checkpoints": [f"random={run}"], "evaluate.labels": labels},
        embed: {"infer.checkpoint": run},
        impute: {"infer.checkpoint": run},
        finetune: {"finetune.checkpoint": run, "finetune.labels": labels},
        export: {"infer.checkpoint": run},
    }
    said = [
        validate(to("validate")),
        fit_statistics(to("statistics")),
        pretrain(to("run")),
        sweep(to("sweep")),
        evaluate(to("evaluation", **given[evaluate])),
        embed(to("vectors", **given[embed])),
        impute(to("imputed_rows", **given[impute])),
        finetune(to("finetuned", **given[finetune])),
        export(to("exported", **given[export])),
    ]
    for fault in (not_ascending, _in_two_files, _with_null_code):
        broken = folder.parent / fault.__name__
        fault(root, broken)
        for verb in (validate, fit_statistics, pretrain, sweep, evaluate, embed, impute, finetune):
            name = f"{fault.__name__}_{verb.__name__}"
            try:
                said.append(verb(to(name, **{"data.root": broken}, **given.get(verb, {}))))
            except (ValueError, OSError, SystemExit) as error:
                said.append(str(error))
    return said


def _in_two_files(root: Path, target: Path) -> None:
    path = copied(root, target)
    pq.write_table(pq.read_table(path), path.with_name("again.parquet"))


def _with_null_code(root: Path, target: Path) -> None:
    path = copied(root, target)
    table = pq.read_table(path)
    codes = table["code"].to_pylist()
    codes[len(codes) // 2] = None
    pq.write_table(
        table.set_column(table.column_names.index("code"), "code", pa.array(codes)), path
    )


@pytest.fixture(scope="module")
def secrets(root):
    return secrets_of(root)


def test_what_is_printed_and_logged_names_no_subject_and_no_value(written, secrets):
    _, said = written
    assert "measurements" in said
    assert "ascend" in said or "order" in said  # the faults were told of
    assert found_in(said, secrets) == []


def test_what_is_written_names_none_where_it_does_not_say_so(written, secrets):
    folder, _ = written
    searched, found = leaks(folder, secrets)
    assert searched > 50
    assert found == []


def test_patient_data_is_where_it_is_said_to_be(root, written, secrets):
    """The search finds what it looks for: embeddings and predictions do hold ids."""
    folder, _ = written
    for name in ("vectors", "imputed_rows", "finetuned", "evaluation"):
        assert list((folder / name).rglob(NOTE)), f"{name} has no {NOTE}"
    assert "a value" in search(next((root / "data").rglob("*.parquet")), secrets)
    for name in ("vectors/embeddings", "imputed_rows/imputed"):
        files = sorted((folder / name).rglob("*.parquet"))
        assert any(search(path, secrets) for path in files)
    assert any(search(path, secrets) for path in (folder / "run").rglob("unit_index.parquet"))
    (exported,) = (folder / "exported").rglob("unit_index.parquet")
    assert search(exported, secrets) == []


# --- faults in what is asked for ------------------------------------------------------------------


def _with(table: pa.Table, name: str, change: Callable[[list[Any]], Any]) -> pa.Table:
    """Change a column, all or one of its entries."""
    entries = table[name].to_pylist()
    column = change(entries)
    column = column if isinstance(column, pa.Array) else pa.array(column, table[name].type)
    return table.set_column(table.column_names.index(name), name, column)


def _instead(entry: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda entries: [*entries[:5], entry, *entries[6:]]


def _texts(entries: list[Any]) -> pa.Array:
    return pa.array([str(entry) for entry in entries])


def _far(entries: list[Any]) -> pa.Array:
    return pa.array([2**43] * len(entries), pa.int64()).cast(pa.timestamp("s"))


# What is wrong with a table of subjects and times, whose time has some name.
FAULTS: dict[str, Callable[[pa.Table, str], pa.Table]] = {
    "ids are texts": lambda t, time: _with(t, "subject_id", _texts),
    "ids are not whole": lambda t, time: _with(
        t, "subject_id", lambda ids: pa.array([own + 0.5 for own in ids])
    ),
    "no id": lambda t, time: _with(t, "subject_id", _instead(None)),
    "times are texts": lambda t, time: _with(t, time, _texts),
    "no time": lambda t, time: _with(t, time, _instead(None)),
    "a time in no year": lambda t, time: _with(t, time, _far),
    "no ids": lambda t, time: t.drop_columns("subject_id"),
    "a subject of nobody": lambda t, time: _with(t, "subject_id", _instead(FIRST_SUBJECT + 1)),
}
LABEL_FAULTS = FAULTS | {
    "twice": lambda t, time: pa.concat_tables([t, t.slice(3, 4)]),
    "no label": lambda t, time: _with(t, "float_value", _instead(None)),
    "no number": lambda t, time: _with(t, "float_value", _instead(float("nan"))),
    "two kinds": lambda t, time: t.append_column(
        "boolean_value", pa.array([True] * t.num_rows, pa.bool_())
    ),
    "categories": lambda t, time: t.drop_columns("float_value").append_column(
        "categorical_value", _texts(t["subject_id"].to_pylist())
    ),
}
ROW_FAULTS = FAULTS | {
    "no code": lambda t, time: _with(t, "code", _instead(None)),
}


def _tried(verb: Callable[[Config], str], config: Config) -> str:
    """Return what a verb says, whether it refuses or not."""
    try:
        return verb(config)
    except (ValueError, OSError) as error:
        return str(error)


def _write(table: pa.Table, path: Path, fault: str) -> None:
    pq.write_table(table, path)
    if fault == "cut short":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("fault", [*LABEL_FAULTS, "cut short"])
def test_faults_in_labels_are_told_without_them(root, written, secrets, tmp_path, fault):
    run = written[0] / "run"
    subjects, times, _ = zip(*planted_labels(str(root)), strict=True)
    numbers = np.random.default_rng(0).normal(50, 9, len(subjects)).astype(np.float32)
    labels = tmp_path / "labels.parquet"
    table = pa.table(
        {
            "subject_id": subjects,
            "prediction_time": pa.array(times, pa.timestamp("us")),
            "float_value": numbers,
        }
    )
    change = LABEL_FAULTS.get(fault, lambda table, time: table)
    _write(change(table, "prediction_time"), labels, fault)
    config = override(PRESETS["tiny"], {"data.root": root, **SETTINGS})
    asks = {
        evaluate: {"evaluate.checkpoints": [f"random={run}"], "evaluate.labels": labels},
        embed: {"infer.checkpoint": run, "infer.labels": labels},
        finetune: {"finetune.checkpoint": run, "finetune.labels": labels},
    }
    if fault == "a subject of nobody":  # which some take: their work is in other tests
        del asks[evaluate]
    with heard() as said:
        results = [
            _tried(verb, override(config, {"output_dir": tmp_path / verb.__name__, **settings}))
            for verb, settings in asks.items()
        ]
    ids, values = secrets
    own = {text for number in numbers for text in (str(number), repr(float(number)))}
    more = ([*ids, FIRST_SUBJECT + 1], values | own)
    for told in results:
        assert found_in(told, more) == []
    assert found_in(said.getvalue(), more) == []
    assert any("labels" in told for told in results)


@pytest.mark.parametrize("fault", [*ROW_FAULTS, "cut short"])
def test_faults_in_rows_that_are_asked_for_are_told_without_them(
    root, written, secrets, tmp_path, fault
):
    path = next((root / "data" / "held_out").glob("*.parquet"))
    codes = load_model(written[0] / "run").fitted.statistics.codes
    table = pq.read_table(path).filter(pc.is_in(pc.field("code"), pa.array(codes)))
    rows = tmp_path / "rows.parquet"
    change = ROW_FAULTS.get(fault, lambda table, time: table)
    _write(change(table.select(["subject_id", "time", "code"]), "time"), rows, fault)
    changes = {"infer.checkpoint": written[0] / "run", "infer.rows": rows}
    changes |= {"data.root": root, "output_dir": tmp_path / "out"}
    with heard() as said:
        told = _tried(impute, override(PRESETS["tiny"], {**SETTINGS, **changes}))
    more = ([*secrets[0], FIRST_SUBJECT + 1], secrets[1])
    assert found_in(told, more) == []
    assert found_in(said.getvalue(), more) == []
    assert rows.name in told or fault == "a subject of nobody"
    assert "none of the model's" not in told  # each is refused for what is wrong with it


# --- a source that becomes a data set -------------------------------------------------------------

RECORD = 748_113_000_777
LINES = (*DESCRIBED, "00:30,HR,71.48113", "01:00,pH,7.481131")
OUTCOME = "6,1,74811,-1,0"


def _convert(root: Path) -> str:
    config = ConvertConfig(source="physionet2012", input=str(root), output=str(root / "meds"))
    try:
        return convert(config)
    except (ValueError, OSError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("lines", "outcomes", "told"),
    [
        (LINES, {RECORD: OUTCOME}, "Data set"),
        ((*LINES, "02:00,HR,7.481131,bpm"), {RECORD: OUTCOME}, "three fields"),
        ((*LINES, "7.481131,HR,70"), {RECORD: OUTCOME}, "a time HH:MM"),
        ((*LINES, "02:00,7.481131,70"), {RECORD: OUTCOME}, "a parameter of the challenge"),
        ((*LINES, "02:00,HR,7.481131x"), {RECORD: OUTCOME}, "a finite number"),
        ((*LINES, "00:00,Age,7.481131"), {RECORD: OUTCOME}, "one Age"),
        ((*LINES, f"00:00,RecordID,{RECORD + 1}"), {RECORD: OUTCOME}, "one RecordID"),
        (("00:00,ICUType,7.481131",), {RECORD: OUTCOME}, "no ICUType that is known"),
        ((*LINES, "02:00,HR,\xe4"), {RECORD: OUTCOME}, "is no text"),
        (LINES, {RECORD: "7.481131,1,5,-1,0"}, "six whole numbers"),
        (LINES, {RECORD: "6,1,5,-1,74811"}, "to be 0 or 1"),
        (LINES, {RECORD: f"{OUTCOME}\n{RECORD},{OUTCOME}"}, "each RecordID once"),
        (LINES, {RECORD + 1: OUTCOME}, "1 of the records"),
        (LINES, {RECORD: OUTCOME, RECORD + 1: OUTCOME}, "1 of the records"),
    ],
)
def test_a_source_is_converted_or_refused_without_telling_of_a_record(
    tmp_path, lines, outcomes, told
):
    write_challenge(tmp_path, {RECORD: [line for line in lines if line.isascii()]}, outcomes)
    if not all(line.isascii() for line in lines):
        with (tmp_path / "set-a" / f"{RECORD}.txt").open("ab") as record:
            record.write(lines[-1].encode("latin-1"))
    with heard() as said:
        result = _convert(tmp_path)
    assert told in result
    values = {"71.48113", "7.481131"}
    assert found_in(said.getvalue() + result, ([RECORD, RECORD + 1, 74811], values)) == []
