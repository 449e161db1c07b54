"""What a sweep keeps of its trials, and what it says of them."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.config import override
from cvmae.evaluate.convergence import SCHEDULE_NOTE
from cvmae.evaluate.seeds import estimate_mean
from cvmae.sweep.page import report
from cvmae.sweep.ranking import curves, metrics_by_epoch, rank
from cvmae.sweep.summary import CodeRecord, Summary, read_summary, summarise, write_summary
from cvmae.sweep.tables import write_tables
from cvmae.sweep.trials import plan_trials
from tests.sweep.fake_trials import NUM_CODES, codes_of, record, statistics_of, write_checkpoint


def codes():
    """Codes whose CV falls: the last two are the most stable."""
    return tuple(
        CodeRecord(code=f"LAB//{n}", num_values=10, cv=1 - n / 10, quartile=4 - n // 2)
        for n in range(NUM_CODES)
    )


def summary(*trials, schedulers=(), **settings):
    return Summary(
        settings={"optim.schedule": "constant"} | settings,
        schedulers=schedulers,
        codes=codes(),
        trials=trials,
    )


def seeds(policy, *last_errors, **changes):
    """Trials of three epochs that end with the errors given."""
    return [
        record(policy, [1.0, 0.8, error], seed=seed, **changes)
        for seed, error in enumerate(last_errors)
    ]


MASK = {"mask.sharpness": 1.0, "train.visible_weight": 0.0}
WEIGHTED = {"train.visible_weight": 0.1}


def together(folder, *parts):
    for place, part in enumerate(parts):
        write_summary(part, folder / str(place))
    return read_summary(*(folder / str(place) for place in range(len(parts))))


def test_a_summary_reads_back_as_it_was_written(tmp_path):
    gaps = codes_of([math.nan, *range(1, NUM_CODES)])
    whole = summary(
        *seeds("random", 0.5, 0.6, axes={"mask.ratio": 0.1}, label="random ratio 0.1"),
        *seeds("cv", 0.7, codes=gaps, axes={"mask.ratio": 0.1}, label="cv ratio 0.1"),
    )
    write_summary(whole, tmp_path / "summary.json", ranked=rank(whole))
    again = read_summary(tmp_path / "summary.json")
    assert again.codes == whole.codes
    assert again.trials[0].curve == whole.trials[0].curve
    assert again.trials[2].axes == {"mask.ratio": 0.1}
    np.testing.assert_equal(
        again.trials[2].codes["tuning_mse"], whole.trials[2].codes["tuning_mse"]
    )
    assert [one.label for one in rank(again)] == [one.label for one in rank(whole)]


def test_a_summary_names_no_place_and_has_six_digits(config, tmp_path):
    trials = plan_trials(config)
    write_checkpoint(trials[0].config, 2, errors=[1 / 3, 2 / 7])
    found = summarise(config, trials, {trials[1].name: f"lost in {tmp_path}"}, statistics_of())
    write_summary(found, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["trials"][0]["curve"]["tuning_mse"] == [0.333333, 0.285714]
    assert [trial.status for trial in found.trials] == ["finished", "failed", "new", "new"]


def test_sweeps_are_read_together_as_one(tmp_path):
    one = summary(*seeds("random", 0.5), schedulers=("asha",), **{"optim.lr": 1.0})
    two = summary(*seeds("cv", 0.6), **{"optim.lr": 1.0})
    both = together(tmp_path, one, two)
    assert [trial.policy for trial in both.trials] == ["random", "cv"]
    assert both.settings == {"optim.schedule": "constant", "optim.lr": 1.0}
    assert both.schedulers == ("asha",)
    with pytest.raises(ValueError, match=r"hold the trial random_epochs3_seed0 twice"):
        together(tmp_path, one, one)


def test_sweeps_of_other_settings_than_masking_are_not_read_together(tmp_path):
    one, two = (summary(*seeds("cv", 0.5), **{"optim.lr": lr}) for lr in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"1 has optim\.lr=2\.0 and .*0 1\.0"):
        together(tmp_path, one, two)


def test_what_is_an_axis_of_one_sweep_or_its_masking_is_an_axis_of_all_that_are_read(tmp_path):
    block = summary(*seeds("random", 0.5, 0.6, 0.7), *seeds("cv", 0.6, 0.7, 0.8), **MASK)
    sharper = summary(*seeds("cv", 0.5, 0.6, axes={"mask.sharpness": 0.25}), **WEIGHTED)
    both = together(tmp_path, block, sharper)
    assert [(trial.trial, trial.label) for trial in both.trials[4:7]] == [
        ("cv_epochs3_seed1", "cv"),
        ("cv_epochs3_seed2", "cv"),
        ("cv_epochs3_seed0_visible_weight0.1", "cv sharpness 0.25 visible_weight 0.1"),
    ]
    assert both.trials[3].axes == {"mask.sharpness": 1.0, "train.visible_weight": 0.0}
    assert both.trials[0].axes == {"train.visible_weight": 0.0}


def test_random_is_the_measure_of_what_differs_in_weights_that_it_ignores(tmp_path):
    block = summary(*seeds("random", 0.5, 0.6, 0.7), *seeds("cv", 0.6, 0.7, 0.8), **MASK)
    axes = [{"mask.sharpness": sharpness} for sharpness in (0.25, 0.5)]
    sharper = summary(*seeds("cv", 0.4, axes=axes[0]), *seeds("cv", 0.3, axes=axes[1]))
    ranked = {one.label: one for one in rank(together(tmp_path, block, sharper))}
    assert list(ranked) == ["cv sharpness 0.5", "cv sharpness 0.25", "random", "cv"]
    assert ranked["cv sharpness 0.25"].minus_random.mean == pytest.approx(-0.1)
    assert {one.reference for one in ranked.values()} == {"random"}


def test_a_label_has_the_length_where_there_are_several_in_all_that_are_read(tmp_path):
    short, long = summary(*seeds("cv", 0.5)), summary(record("cv", [1.0, 0.5]))
    assert [t.label for t in together(tmp_path, short).trials] == ["cv"]
    both = together(tmp_path, short, long)
    assert [t.label for t in both.trials] == ["cv 3 epochs", "cv 2 epochs"]


def test_codes_are_ranked_by_cv_and_those_with_a_mean_near_zero_have_no_quartile(config):
    statistics = statistics_of([0.4, 0.3, 9.0, 0.2, 0.1])  # the mean is 1: 9 is beyond 5
    found = summarise(config, [], {}, statistics)
    assert [code.quartile for code in found.codes] == [4, 3, None, 2, 1]


def test_a_quartiles_error_weighs_codes_by_their_scored_values():
    columns = codes_of() | {"tuning_count": [10.0, 30.0, *[10.0] * (NUM_CODES - 2)]}
    (one,) = rank(summary(*seeds("cv", 0.5, codes=columns)))
    # The most volatile quarter: codes 0 and 1, with errors 0 and 1 of 10 and 30 values.
    assert one.tuning_mse_by_quartile[:4] == (6.5, 4.5, 2.5, 0.75)
    assert math.isnan(one.tuning_mse_by_quartile[4])


def test_a_mean_has_an_interval_from_three_seeds_on():
    assert estimate_mean([1.0, 2.0]).low is None
    found = estimate_mean([1.0, 2.0, 3.0, 4.0])
    # t of 3 degrees of freedom is 3.182; the standard error sqrt(5/3)/2.
    assert found.high == pytest.approx(2.5 + 3.182 * math.sqrt(5 / 3) / 2, abs=1e-3)


def test_labels_are_ranked_by_the_mean_of_their_finished_seeds_last_error():
    found = summary(
        *seeds("random", 0.5, 0.7), *seeds("cv", 0.55, 0.57, 0.59),
        *seeds("variance", 0.1, status="failed"),
    )  # fmt: skip
    assert [(one.label, one.last_tuning_mse.num_seeds) for one in rank(found)] == [
        ("cv", 3),
        ("random", 2),
    ]


def test_a_difference_to_random_is_taken_seed_by_seed():
    found = summary(*seeds("random", 0.5, 0.7, 0.9), *seeds("cv", 0.6, 0.8, 1.0, 9.0))
    difference = {one.label: one.minus_random for one in rank(found)}
    assert difference["random"] is None
    assert difference["cv"].num_seeds == 3  # the fourth has no counterpart
    assert difference["cv"].low == pytest.approx(0.1)
    assert difference["cv"].high == pytest.approx(0.1)


def test_everybody_is_timed_against_the_random_of_the_same_axes_and_length():
    fine, coarse = ({"optim.lr": lr} for lr in (1e-4, 1e-3))
    found = summary(
        *seeds("random", 0.4, axes=fine, label="random lr 0.0001"),
        *seeds("cv", 0.6, axes=fine, label="cv lr 0.0001"),
        *seeds("random", 0.7, axes=coarse, label="random lr 0.001"),
        *seeds("cv", 0.6, axes=coarse, label="cv lr 0.001"),
    )
    timed = curves(found)
    assert timed["cv lr 0.0001"].names["cv lr 0.0001"].epochs_to_reference_best is None
    assert timed["cv lr 0.001"].names["cv lr 0.001"].epochs_to_reference_best < 3


def test_without_random_there_is_no_target_and_the_page_says_so():
    found = summary(*seeds("cv", 0.5))
    told = report(found, rank(found))
    assert "No target: there is no finished random to be met" in told
    assert "to 1% of own best" in told


def test_a_page_says_what_must_be_known_to_read_it():
    few = summary(*seeds("random", 0.5, 0.6), **{"optim.schedule": "cosine"})
    told = report(few, rank(few))
    assert "Fewer than 3 seeds have no interval, and decide nothing." in told
    assert SCHEDULE_NOTE in told
    assert "claims about policies come from `evaluate`" in told
    enough = summary(*seeds("random", 0.5, 0.6, 0.7))
    told = report(enough, rank(enough))
    assert "decide nothing" not in told
    assert SCHEDULE_NOTE not in told
    assert "supports no claim" not in told


def test_a_sweep_with_a_scheduler_supports_no_claim_and_says_so():
    found = summary(*seeds("cv", 0.5), schedulers=("asha",))
    assert "asha has stopped trials early" in report(found, rank(found))


def test_trials_under_another_mask_are_said_not_to_compare():
    trials = [
        trial
        for ratio in (0.1, 0.2)
        for trial in seeds("cv", 0.5, axes={"mask.ratio": ratio}, label=f"cv {ratio}")
    ]
    found = summary(*trials)
    assert "mask.ratio differs between trials" in report(found, rank(found))


def test_a_run_that_never_gets_there_is_counted():
    found = summary(*seeds("random", 0.5, 0.5), *seeds("cv", 0.4, 0.9))
    told = report(found, rank(found))
    assert "1 of 2 seeds" in told


def test_metrics_by_epoch_leave_out_a_label_that_is_not_whole_and_names_stay_allowed():
    found = summary(
        *seeds("random", 0.9, 0.7),
        *seeds("cv", 0.5),
        *seeds("cv", 0.5, status="unfinished"),
        *seeds("variance", 0.5, label="variance weights_file a:b"),
    )
    metrics = dict(metrics_by_epoch(found))
    assert set(metrics[3]) == {
        "tuning_mse/random 2 seeds",
        "best_tuning_mse/random 2 seeds",
        "tuning_mse/variance weights_file a-b",
        "best_tuning_mse/variance weights_file a-b",
    }
    assert metrics[3]["tuning_mse/random 2 seeds"] == pytest.approx(0.8)
    assert metrics[3]["best_tuning_mse/random 2 seeds"] == pytest.approx(0.75)


def test_tables_have_a_row_per_trial_per_epoch_and_per_code_with_the_axes(config, tmp_path):
    trials = plan_trials(override(config, {"sweep.axes": ["optim.clip_norm=None,1"]}))
    write_checkpoint(trials[0].config, 2)
    write_checkpoint(trials[1].config, 1)
    write_tables(summarise(config, trials, {}, statistics_of()), tmp_path)
    rows, epochs, by_code = (
        pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        for name in ("trials", "results", "code_results")
    )
    assert [row["optim.clip_norm"] for row in rows[:2]] == [None, 1.0]
    assert [row["status"] for row in rows[:3]] == ["finished", "unfinished", "new"]
    assert [(row["trial"], row["epoch"]) for row in epochs] == [
        (trials[0].name, 1),
        (trials[0].name, 2),
        (trials[1].name, 1),
    ]
    assert [row["tuning_mse"] for row in by_code[:NUM_CODES]] == list(range(NUM_CODES))
    assert rows[0]["tuning_mse_cv_quartile_1"] == 6.5
