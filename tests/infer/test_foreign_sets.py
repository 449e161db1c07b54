"""A data set that a model cannot be used on is refused with what is wrong, by real and dry runs."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.config import override
from cvmae.dry_run.using import embed_asked, evaluate_asked, impute_asked
from cvmae.evaluate.evaluate import evaluate
from cvmae.infer.embed_set import embed
from cvmae.infer.impute_set import impute
from cvmae.infer.matching import require_common_code, side_by_side
from cvmae.meds.dataset import open_dataset
from cvmae.meds.units import plan_units
from cvmae.plan.lines import told
from cvmae.settings import ScalingConfig

HERE = ScalingConfig(num_workers=0)
VERBS = {
    "embed": (embed, embed_asked),
    "impute": (impute, impute_asked),
    "evaluate": (evaluate, evaluate_asked),
}


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r"data\.root=") as refusal:
        act()
    return str(refusal.value)


def refused_by(verb, config):
    """Return the text with which a verb refuses settings, which its dry run repeats."""
    real, asks = VERBS[verb]
    text = refused(lambda: real(config))
    assert refused(lambda: told(asks(config))) == text
    assert not Path(config.output_dir).exists()
    return text


def settings_of(run, root, out, **changes):
    return override(
        run,
        {
            "data.root": root,
            "output_dir": out,
            "infer.checkpoint": run.output_dir,
            "evaluate.checkpoints": [f"cv={run.output_dir}"],
            **changes,
        },
    )


@pytest.mark.parametrize("verb", VERBS)
def test_codes_that_do_not_match_are_shown_with_the_models_and_their_numbers(
    verb, run, loaded, write_meds, tmp_path
):
    own = loaded.fitted.statistics.codes[0]
    theirs = own.lower().replace("//", "/")
    rows = [(1, 1, "AAA//no value", None), (1, 2, "BBB//rare", 1.0)]
    rows += [(1, 3 + n, theirs, 1.0) for n in range(3)]
    root = write_meds({"0.parquet": rows}, {1: "held_out"}, name="foreign")
    text = refused_by(verb, settings_of(run, root, tmp_path / "out"))
    who = "1 subject of held_out" if verb == "evaluate" else "1 subject asked for"
    assert f"has no value of any of the model's 8 codes for the {who}. Its most" in text
    assert f"most frequent codes with values: {theirs} (3 values), BBB//rare (1 value);" in text
    assert f"the model's most frequent: {', '.join(loaded.fitted.statistics.codes[:3])}" in text
    assert f"spelt nearly alike: {theirs} and {own}" in text
    assert "no value:" not in text
    assert "AAA" not in text


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", ["no column", "nulls alone"])
def test_a_data_set_without_values_is_not_taken_for_one_of_other_codes(
    how, verb, run, loaded, write_meds, tmp_path
):
    rows = [(1, n, loaded.fitted.statistics.codes[0], None) for n in range(3)]
    table = pa.table(
        {
            "subject_id": pa.array([row[0] for row in rows], pa.int64()),
            "time": pa.array([row[1] for row in rows], pa.timestamp("us")),
            "code": [row[2] for row in rows],
        }
    )
    shard = table if how == "no column" else rows
    root = write_meds({"0.parquet": shard}, {1: "held_out"}, name="without")
    text = refused_by(verb, settings_of(run, root, tmp_path / "out"))
    if how == "no column":
        assert "has no column 'numeric_value' in its 1 shard; MEDS allows that" in text
    else:
        assert "none of their 3 rows has a finite numeric_value, whatever its code" in text
    assert "frequent" not in text


@pytest.mark.parametrize(("verb", "unknown"), [("embed", "zeros"), ("impute", "null")])
def test_subjects_of_whom_none_is_known_are_counted_with_those_that_are(
    verb, unknown, run, loaded, hospital, tmp_path
):
    code = loaded.fitted.statistics.codes[0]
    subjects, times = [10**9, 10**9, 10**9 + 1], pa.array([5, 6, 5], pa.timestamp("us"))
    setting = "labels" if verb == "embed" else "rows"
    columns = {
        "labels": {"prediction_time": times, "boolean_value": [True, False, True]},
        "rows": {"time": times, "code": [code] * 3},
    }
    asked = tmp_path / "asked.parquet"
    pq.write_table(pa.table({"subject_id": subjects} | columns[setting]), asked)
    config = settings_of(run, hospital, tmp_path / "out", **{f"infer.{setting}": asked})
    text = refused_by(verb, config)
    assert f"infer.{setting}={asked} asks for 3 rows of 2 subjects, and data.root=" in text
    assert "whose splits have 60 subjects, has no row of any of them" in text
    assert f"would be {unknown} in " in text
    assert "/without_rows.parquet" in text
    assert "codes" not in text


def test_a_code_that_only_a_later_unit_has_is_found_though_the_table_of_codes_lacks_it(
    loaded, write_meds
):
    """MEDS does not promise that codes.parquet has all codes."""
    statistics = loaded.fitted.statistics
    codes = dict.fromkeys(range(8), "LAB//zinc") | {8: statistics.codes[0]}
    shards = {f"{n}.parquet": [(n, 5, code, 1.0)] for n, code in codes.items()}
    root = write_meds(shards, dict.fromkeys(codes, "train"), name="later")
    pq.write_table(pa.table({"code": ["LAB//zinc"]}), Path(root) / "metadata" / "codes.parquet")
    dataset = open_dataset(root)
    units = plan_units(dataset, 1)
    assert len(units) == 9
    require_common_code(dataset.source, units, statistics, "train", HERE)
    text = refused(
        lambda: require_common_code(dataset.source, units[:8], statistics, "train", HERE)
    )
    assert "LAB//zinc (8 values)" in text  # of all units, not of the first


def test_names_are_compared_without_what_all_codes_share(loaded):
    statistics = loaded.fitted.statistics
    text = side_by_side({"LAB//RESULT//zzz": 3, "LAB//yyyyyy": 1}, statistics)
    assert "alike" not in text
    own = statistics.codes[-1]  # none of the most frequent ones
    text = side_by_side({f"{own}//x": 3}, statistics)
    assert text.endswith(f"spelt nearly alike: {own}//x and {own}")
