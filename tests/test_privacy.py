"""No subject id and no single value in what verbs print, log and write, but where it is said.

A hospital has ids and values that occur nowhere else by chance; every verb is run on it, also with
faults in the data, and all that comes out is searched.
"""

import contextlib
import io
import logging
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cvmae.config import PRESETS, Config, override
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
from tests.train.planted import planted_labels, write_labels

FIRST_SUBJECT, APART = 748_113_000_019, 7_919  # twelve digits, no run of which is a count or a time
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
NOTED = re.compile(r"^(?:The files below )?(\S+?)/? are patient data", re.M)
# Said to hold them (docs/data.md): of checkpoints and statistics, which subjects are in a read, and
# the least and the greatest value of each code.
KEPT = re.compile(r"(unit_index|code_statistics)\.parquet")


@pytest.fixture(scope="module")
def root(hospital, tmp_path_factory):
    """The hospital again, its subjects under other ids."""
    folder = tmp_path_factory.mktemp("planted") / "meds"
    for path in sorted(Path(hospital).rglob("*.parquet")):
        table = pq.read_table(path)
        if "subject_id" in table.column_names:
            ids = pc.add(pc.multiply(table["subject_id"], APART), FIRST_SUBJECT)
            table = table.set_column(table.column_names.index("subject_id"), "subject_id", ids)
        target = folder / path.relative_to(hospital)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
    return folder


@pytest.fixture(scope="module")
def written(root, tmp_path_factory):
    """Everything that all verbs write, and what they print and log."""
    folder, said = tmp_path_factory.mktemp("out"), io.StringIO()
    heard = logging.StreamHandler(said)  # with tracebacks
    logging.getLogger().addHandler(heard)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            results = _run_verbs(root, folder)
    finally:
        logging.getLogger().removeHandler(heard)
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
    for fault in (_not_ascending, _in_two_files, _with_null_code):
        broken = folder.parent / fault.__name__
        fault(root, broken)
        for verb in (validate, fit_statistics, pretrain, sweep, evaluate, embed, impute, finetune):
            name = f"{fault.__name__}_{verb.__name__}"
            try:
                said.append(verb(to(name, **{"data.root": broken}, **given.get(verb, {}))))
            except (ValueError, OSError, SystemExit) as error:
                said.append(str(error))
    return said


def _copied(root: Path, target: Path) -> Path:
    """Copy a data set, and return one of its files with many subjects."""
    for path in sorted(root.rglob("*.parquet")):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return sorted((target / "data" / "train").glob("*.parquet"))[0]


def _not_ascending(root: Path, target: Path) -> None:
    path = _copied(root, target)
    table = pq.read_table(path)
    pq.write_table(table.take(np.arange(table.num_rows)[::-1]), path)


def _in_two_files(root: Path, target: Path) -> None:
    path = _copied(root, target)
    pq.write_table(pq.read_table(path), path.with_name("again.parquet"))


def _with_null_code(root: Path, target: Path) -> None:
    path = _copied(root, target)
    table = pq.read_table(path)
    codes = table["code"].to_pylist()
    codes[len(codes) // 2] = None
    pq.write_table(
        table.set_column(table.column_names.index("code"), "code", pa.array(codes)), path
    )


@pytest.fixture(scope="module")
def secrets(root):
    """Patterns of all ids, as text and as bytes, and of values that have six digits or more."""
    files = sorted((root / "data").rglob("*.parquet"))
    rows = pa.concat_tables(pq.read_table(path) for path in files)
    ids = sorted(set(rows["subject_id"].to_pylist()))
    labs = rows.filter(pc.match_substring_regex(rows["code"], "^LAB//"))
    measured = labs["numeric_value"].drop_null().to_numpy()
    short = {str(value) for value in measured}  # as float32, and as Python's floats are written:
    long = {repr(value) for value in measured.astype(float).tolist()}
    values = {text for text in short | long if len(text.replace(".", "").lstrip("0")) >= 6}
    assert len(ids) > 50
    assert len(values) > 500
    return ids, values


def found_in(text: str, secrets: tuple[list[int], set[str]]) -> list[str]:
    """Name what kind of secret a text holds; the secret itself stays out of the message."""
    ids, values = secrets
    numbers = set(re.findall(r"\d+\.\d+", text))
    return [f"id of subject {place}" for place, own in enumerate(ids) if str(own) in text] + [
        "a value" for _ in numbers & values
    ]


def patient_data(path: Path, folder: Path) -> bool:
    """Tell whether a note names this file, or a folder that it is in, as patient data."""
    own = path.relative_to(folder).parts[:-1]
    for depth in range(1, len(own) + 1):
        note = folder.joinpath(*own[:depth], NOTE)
        if note.is_file():
            (named,) = NOTED.findall(note.read_text())
            inside = path.relative_to(note.parent).parts
            return path != note and named in (note.parent.name, inside[0])
    return False


def test_what_is_printed_and_logged_names_no_subject_and_no_value(written, secrets):
    _, said = written
    assert "measurements" in said
    assert "ascend" in said or "order" in said  # the faults were told of
    assert found_in(said, secrets) == []


def test_what_is_written_names_none_where_it_does_not_say_so(written, secrets):
    folder, _ = written
    searched, leaks = 0, []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or KEPT.fullmatch(path.name) or patient_data(path, folder):
            continue
        searched += 1
        leaks += [(path.relative_to(folder), what) for what in _search(path, secrets)]
    assert searched > 50
    assert leaks == []


def _search(path: Path, secrets: tuple[list[int], set[str]]) -> list[str]:
    ids, _ = secrets
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        content += str(table.to_pydict()).encode() + str(table.schema.metadata).encode()
    binary = [
        f"id {place}" for place, own in enumerate(ids) if own.to_bytes(8, "little") in content
    ]
    return binary + found_in(content.decode("utf-8", errors="replace"), secrets)


def test_patient_data_is_where_it_is_said_to_be(root, written, secrets):
    """The search finds what it looks for: embeddings and predictions do hold ids."""
    folder, _ = written
    for name in ("vectors", "imputed_rows", "finetuned", "evaluation"):
        assert list((folder / name).rglob(NOTE)), f"{name} has no {NOTE}"
    assert "a value" in _search(next((root / "data").rglob("*.parquet")), secrets)
    for name in ("vectors/embeddings", "imputed_rows/imputed"):
        files = sorted((folder / name).rglob("*.parquet"))
        assert any(_search(path, secrets) for path in files)
    assert any(_search(path, secrets) for path in (folder / "run").rglob("unit_index.parquet"))
    (exported,) = (folder / "exported").rglob("unit_index.parquet")
    assert _search(exported, secrets) == []
