"""Policy table: a user's own weights are checked by code, kept with the run, and looked after."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import load_model
from cvmae.settings import MaskConfig
from cvmae.train.pretrain import pretrain
from cvmae.train.streams import make_plan
from cvmae.train.weights_file import KEPT_WEIGHTS, keep_weights, read_weights
from tests.prepared import training_data

TWO = {"LAB//Na, serum": 0.5, "LAB//pH ": 2.0}


def by_table(config, path):
    return replace(config, mask=MaskConfig(policy="table", weights_file=str(path)))


def write_csv(path: Path, weights, header="code,weight") -> Path:
    lines = [header, *(f'"{code}",{weight}' for code, weight in weights.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def data(tiny):
    return training_data(tiny)


@pytest.fixture
def clinical(data):
    codes = data.fitted.statistics.codes
    return {code: 1.0 + place for place, code in enumerate(codes)}


@pytest.fixture
def table(tmp_path, clinical):
    return write_csv(tmp_path / "clinical.csv", clinical)


def test_csv_and_parquet_say_the_same_with_commas_blanks_and_further_columns(tmp_path):
    written = {
        "plain.csv": 'code,weight\n"LAB//Na, serum",0.5\nLAB//pH ,2\n',
        "marked.csv": '\ufeffcode,note,weight\r\n"LAB//Na, serum",x,0.5\r\nLAB//pH ,,2\r\n',
    }
    for name, text in written.items():
        (tmp_path / name).write_bytes(text.encode())
        assert read_weights(str(tmp_path / name)) == TWO
    columns = {"weight": pa.array([0.5, 2], pa.float32()), "code": list(TWO), "note": ["", ""]}
    pq.write_table(pa.table(columns), tmp_path / "weights.bin")
    assert read_weights(str(tmp_path / "weights.bin")) == TWO


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("A,1\nB,0", r"line 3: the weight of 'B' is '0'; give a finite number above 0"),
        ("A,1\nB,-2", r"line 3: the weight of 'B' is '-2'"),
        ("A,1\nB,inf", r"line 3: the weight of 'B' is 'inf'"),
        ("A,1\nB,nan", r"line 3: the weight of 'B' is 'nan'"),
        ("A,1\nB,much", r"line 3: the weight of 'B' is 'much'"),
        ("A,1\nB", r"line 3: the weight of 'B' is None"),
        ("A,1\n,2", r"line 3: there is no code"),
        ("A,1\nB,2\nA,3", r"line 4: 'A' stands in line 2 as well"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_with_its_place(tmp_path, rows, said):
    path = tmp_path / "weights.csv"
    path.write_text(f"code,weight\n{rows}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"mask\.weights_file=.*weights\.csv, {said}"):
        read_weights(str(path))


def test_a_row_of_a_parquet_file_is_named_by_its_number(tmp_path):
    pq.write_table(pa.table({"code": ["A", "B"], "weight": [1.0, None]}), tmp_path / "w.parquet")
    with pytest.raises(ValueError, match=r"row 2: the weight of 'B' is None"):
        read_weights(str(tmp_path / "w.parquet"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"code;weight\nA;1\n", r"no column 'code' \(found: 'code;weight'\): give a CSV file"),
        (b"", r"no column 'code' \(found: none\)"),
        (b"code,weight\n\xb5,1\n", "neither parquet nor CSV in UTF-8"),
        (b"PAR1 and no more", "damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, said):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mask\.weights_file=.*weights.*{said}"):
        read_weights(str(tmp_path / "weights"))


def test_policy_table_asks_for_its_file():
    with pytest.raises(ValueError, match=r"mask\.weights_file='' is not allowed"):
        MaskConfig(policy="table")


def test_a_run_hides_by_the_weights_of_its_file(tiny, data, table, clinical):
    plan = make_plan(by_table(tiny, table), data)
    heaviest = max(clinical.values())
    wanted = np.array([clinical[code] / heaviest for code in data.fitted.statistics.codes])
    np.testing.assert_array_equal(plan.train_reader.weight_C, wanted.astype(np.float32))


def test_a_code_without_a_weight_is_named_before_anything_is_written(tiny, tmp_path, clinical):
    code = next(iter(clinical))
    lacking = {c: w for c, w in clinical.items() if c != code}
    config = by_table(tiny, write_csv(tmp_path / "weights.csv", lacking))
    with pytest.raises(ValueError, match=rf"gives no weight to '{code}': each of the 8 codes"):
        pretrain(config)
    assert not {KEPT_WEIGHTS, "config.yaml", "checkpoints"} & {
        path.name for path in Path(tiny.output_dir).iterdir()
    }


def test_a_file_that_is_not_there_is_said_before_the_data_are_read(tiny):
    config = by_table(tiny, "no/such.csv")
    with pytest.raises(FileNotFoundError, match=r"mask\.weights_file=.*such\.csv is no file"):
        pretrain(config)
    assert not (Path(tiny.output_dir) / "statistics").exists()


def test_a_copy_kept_in_the_run_folder_is_enough_on_a_node_that_lacks_the_file(
    tiny, data, table, clinical
):
    config = by_table(replace(tiny, train=replace(tiny.train, epochs=1)), table)
    keep_weights(config, data.fitted.statistics.codes, has_begun=False)
    table.unlink()
    run = pretrain(config)
    weights = pq.read_table(f"{run}/{KEPT_WEIGHTS}").to_pydict()
    assert dict(zip(weights["code"], weights["weight"], strict=True)) == clinical


def test_codes_beyond_the_vocabulary_are_counted_in_one_line(tiny, tmp_path, clinical, caplog):
    caplog.set_level(logging.INFO)
    more = clinical | {"LAB//other": 3, "LAB//another": 2}
    one_epoch = replace(tiny, train=replace(tiny.train, epochs=1))
    pretrain(by_table(one_epoch, write_csv(tmp_path / "weights.csv", more)))
    lines = [r.getMessage() for r in caplog.records if "not in the vocabulary" in r.getMessage()]
    assert len(lines) == 1
    assert "2 of its codes" in lines[0]


def test_a_resumed_run_hides_what_it_would_have_hidden(tiny, table, clinical, monkeypatch):
    monkeypatch.chdir(table.parent)
    one = replace(
        tiny,
        train=replace(tiny.train, epochs=1),
        optim=replace(tiny.optim, schedule="constant", warmup_steps=0),
    )
    run = pretrain(by_table(one, table.name))
    # Where it is resumed, another folder is the current one: the path is absolute.
    monkeypatch.chdir("/")
    begun = load_model(run).config
    assert begun.mask.weights_file == str(table)
    longer = replace(begun, resume=run, train=replace(one.train, epochs=2))
    write_csv(table, clinical | {next(iter(clinical)): 77.0})
    with pytest.raises(ValueError, match=r"cannot resume .*weights_file=.* gives 'LAB//"):
        pretrain(longer)
    table.unlink()
    pretrain(longer)
    assert load_model(run).progress.epoch == 2


def test_other_weights_are_taken_where_that_is_meant(tiny, table, clinical, caplog):
    one = replace(
        tiny,
        train=replace(tiny.train, epochs=1),
        optim=replace(tiny.optim, schedule="constant", warmup_steps=0),
    )
    run = pretrain(by_table(one, table))
    write_csv(table, clinical | {next(iter(clinical)): 77.0})
    longer = replace(by_table(one, table), resume=run, train=replace(one.train, epochs=2))
    pretrain(replace(longer, resume_allow=("mask.weights_file",)))
    assert "hidden by other weights from here on" in caplog.text
    assert pq.read_table(f"{run}/{KEPT_WEIGHTS}")["weight"][0].as_py() == 77.0
