"""What was fitted is written as a folder, which is used again where it still holds."""

import json
from dataclasses import replace

import pytest

from cvmae.config import read_config
from cvmae.statistics.fit import fit_statistics
from cvmae.statistics.fitted import FittedData
from tests.prepared import fit, load_or_fit
from tests.statistics.small_set import SUBJECTS, config_of, write_meds


def test_fitted_data_survive_writing_and_reading(root, tmp_path):
    fitted = fit(config_of(root))
    fitted.write(tmp_path / "fitted")
    again = FittedData.read(tmp_path / "fitted")
    assert fitted.statistics.differences(again.statistics) == []
    assert again.unit_index.units == fitted.unit_index.units
    for name in ("fingerprint", "settings", "report"):
        assert getattr(again, name) == getattr(fitted, name)
    with pytest.raises(ValueError, match="choose a new folder"):
        fitted.write(tmp_path / "fitted")
    assert [path.name for path in tmp_path.iterdir()] == ["fitted"]


def test_a_folder_that_is_not_whole_is_refused(root, tmp_path):
    fit(config_of(root)).write(tmp_path / "fitted")
    (tmp_path / "fitted" / "data.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.json is damaged"):
        FittedData.read(tmp_path / "fitted")
    (tmp_path / "fitted" / "data.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.json"):
        FittedData.read(tmp_path / "fitted")


def test_the_verb_writes_a_folder_and_returns_a_table(root, tmp_path):
    config = replace(config_of(root, num_codes=2), output_dir=str(tmp_path / "out"))
    table = fit_statistics(config)
    for text in ("LAB//", "raw CV", "train: 20 subjects", "left out", str(tmp_path / "out")):
        assert text in table
    assert read_config(tmp_path / "out" / "config.yaml").data.num_codes == 2
    used = replace(config, data=replace(config.data, statistics=str(tmp_path / "out")))
    assert load_or_fit(used).statistics.num_codes == 2
    with pytest.raises(ValueError, match=r"output_dir=.*not empty"):
        fit_statistics(config)


def test_the_table_names_codes_in_words_those_that_are_left_out_as_well(hospital, tmp_path):
    config = replace(config_of(hospital, num_codes=3), output_dir=str(tmp_path / "out"))
    table = fit_statistics(config)
    kept, _, left_out = table.partition("left out")
    assert kept.count("  Synthetic lab ") == 3
    assert left_out.count(" (Synthetic lab ") == 3  # the first of five; all are in data.json


def test_statistics_are_fitted_once_into_the_output_folder(root, tmp_path):
    config = replace(config_of(root), output_dir=str(tmp_path / "run"))
    fitted = load_or_fit(config)
    path = tmp_path / "run" / "statistics" / "data.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"report": {"read": "again"}}))
    assert load_or_fit(config).report == {"read": "again"}
    assert fitted.report != {"read": "again"}


def test_statistics_of_other_settings_or_data_are_refused_with_the_difference(root, tmp_path):
    fit(config_of(root)).write(tmp_path / "fitted")
    given = {"statistics": str(tmp_path / "fitted")}
    load_or_fit(config_of(root, **given))
    with pytest.raises(ValueError, match=r"data\.min_count is 25 there and 30 now"):
        load_or_fit(config_of(root, min_count=30, **given))
    other = write_meds(tmp_path / "set", shards=[range(SUBJECTS)])
    with pytest.raises(ValueError, match="num_shards is 2 there and 1 now"):
        load_or_fit(config_of(other, **given))
